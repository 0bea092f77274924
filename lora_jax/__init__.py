"""lora_jax: low-rank adapters (LoRA, Hu et al. 2021, arXiv:2106.09685) for any Flax model.

The front door; `lora_jax.training`, `lora_jax.sweep` and `lora_jax.checkpoint` hold the rest.
"""

from lora_jax import (
    algebra,
    bank,
    checkpoint,
    eva,
    initializers,
    mesh,
    models,
    peft,
    products,
    quantised,
    sweep,
    training,
)
from lora_jax.adapter import adapt, adapter_of, rebase, scaled, strip, swap
from lora_jax.config import LoRAConfig
from lora_jax.errors import LoRAError
from lora_jax.layout import layout
from lora_jax.merge import merge, rounding_error
from lora_jax.module import LoRA
from lora_jax.optim import lora_optimizer, lora_plus
from lora_jax.partition import combine, partition, trainable_mask
from lora_jax.products.function import lora
from lora_jax.report import report
from lora_jax.spectrum import spectrum
from lora_jax.tree_config import config_of
from lora_jax.verify import verify

__version__ = "0.2.0"  # pyproject.toml reads it here

__all__ = [
    "LoRA",
    "LoRAConfig",
    "LoRAError",
    "adapt",
    "adapter_of",
    "algebra",
    "bank",
    "checkpoint",
    "combine",
    "config_of",
    "eva",
    "initializers",
    "layout",
    "lora",
    "lora_optimizer",
    "lora_plus",
    "merge",
    "mesh",
    "models",
    "partition",
    "peft",
    "products",
    "quantised",
    "rebase",
    "report",
    "rounding_error",
    "scaled",
    "spectrum",
    "strip",
    "swap",
    "sweep",
    "trainable_mask",
    "training",
    "verify",
]
