"""Text to rows of tokens, rows to packs, packs to tensors."""
