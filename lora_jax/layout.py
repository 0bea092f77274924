"""The layout of a model: every layer that LoRA could adapt, with what its kernel is."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from lora_jax.layers import bound, rule_for


class Site(NamedTuple):
    """A layer that LoRA could adapt; `kernel` is its shape in the layer, without the axis of a stack."""

    kind: str  # "Dense", "DenseGeneral", "Einsum", "Conv" or "Embed"
    kernel: tuple[int, ...]
    at: int  # how many leading axes of the kernel `a` spans
    is_linear: bool


def layout(base_module: nn.Module, *args: Any, **kwargs: Any) -> dict[str, Site]:
    """Every layer of a Flax model that LoRA could adapt, by its path; nothing is computed.

    Args:
      *args, **kwargs: an example input, as for `base_module.init`.

    >>> import jax.numpy as jnp
    >>> layout(nn.Dense(4, name="head"), jnp.ones((1, 3)))
    {'': Site(kind='Dense', kernel=(3, 4), at=1, is_linear=True)}
    """
    found: dict[str, Site] = {}

    def interceptor(next_fun: Callable, args: tuple, kwargs: dict[str, Any], context: nn.module.InterceptorContext):
        y = next_fun(*args, **kwargs)
        module, rule = context.module, rule_for(context.module, context.orig_method.func)
        if rule is not None and module.scope is not None:
            _, inputs, rest = bound(next_fun, context.orig_method, args, kwargs)
            kernel = nn.meta.unbox(module.scope.get_variable("params", rule.kernel))
            at = rule.split(module, kernel, inputs, *rest).at
            found.setdefault("/".join(module.path), Site(rule.kind, kernel.shape, at, rule.is_linear))
        return y

    def init(key):
        with nn.intercept_methods(interceptor):
            return base_module.init(key, *args, **kwargs)

    jax.eval_shape(init, jax.random.key(0))
    return found
