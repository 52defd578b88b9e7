"""Other methods on the same rows: LoRA and full fine-tuning, a linear probe and TF-IDF."""
