"""Plain Flax models that have never heard of LoRA, and pretrained ones in a line: `from_pretrained`."""

from lora_jax.models.pretrained import Pretrained, from_pretrained, save_pretrained

__all__ = ["Pretrained", "from_pretrained", "save_pretrained"]
