"""S4: small language models from nothing, and what LoRA and full fine-tuning teach them."""
