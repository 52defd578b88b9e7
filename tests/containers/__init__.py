"""Containers, played for real: not collected by pytest."""
