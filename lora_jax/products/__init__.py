"""LoRA by following each parameter to the products that read it: rules for products, and none for layers.

`find` tells what becomes of each leaf of a function's parameters, `adapt` puts fresh adapters beside the leaves that a config targets, and
`lora_jax.lora` is the transformation.
"""

from lora_jax.products.find import find
from lora_jax.products.function import adapt
from lora_jax.products.site import Site

__all__ = ["Site", "adapt", "find"]
