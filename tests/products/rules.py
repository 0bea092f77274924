"""The other mechanism, for as long as it is there: the side path by rules per layer class, which `LoRA.apply` no longer takes."""

from collections.abc import Callable

import flax.linen as nn

from lora_jax import LoRA
from lora_jax.interceptor import Seen


def by_rules(model: LoRA) -> Callable:
    """(params, *args) -> outputs of a linen model under the interceptor."""
    call = type(model.base_module).__call__
    return lambda params, *args: nn.Module.apply(model, {"params": params}, Seen(), call, *args, method=LoRA._adapted)
