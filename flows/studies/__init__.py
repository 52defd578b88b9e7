"""Committed results with their story, and doors to other people's benchmarks."""
