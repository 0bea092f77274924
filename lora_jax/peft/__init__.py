"""Adapter folders of Hugging Face PEFT, `adapter_config.json` and `adapter_model.safetensors`, read and written without torch."""

from lora_jax.peft.experts import Parameters
from lora_jax.peft.names import dotted
from lora_jax.peft.reading import Loaded, load
from lora_jax.peft.writing import save

__all__ = ["Loaded", "Parameters", "dotted", "load", "save"]
