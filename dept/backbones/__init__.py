"""Frozen language models: finding, loading and checking them, and what makes them fast."""
