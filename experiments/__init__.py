"""The reproduction suite: published studies of LoRA, claim by claim. Imports lora_jax, never the other way."""
