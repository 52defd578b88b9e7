"""Other methods on the same rows and budget: LoRA and full fine-tuning."""
