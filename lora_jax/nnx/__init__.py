"""LoRA for Flax NNX: the same trees, training, sweeps, merging, checkpoints and PEFT files as for linen."""

from lora_jax.nnx.statistics import statistics_of
from lora_jax.nnx.variables import LoRAParam, LoRASetting
from lora_jax.nnx.wrapper import LoRA

__all__ = ["LoRA", "LoRAParam", "LoRASetting", "statistics_of"]
