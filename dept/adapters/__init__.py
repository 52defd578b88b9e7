"""Adapters: P, A, B and their files, how they start, many of them as one stack of tensors, and their optimizer."""
