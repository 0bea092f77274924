"""Plain Flax models that have never heard of LoRA."""
