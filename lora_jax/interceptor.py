"""The side path at run time: a stateless, presence-based interceptor of Flax method calls.

Wherever the scope of a known layer holds `lora_a`, the layer's output gets the low-rank path added; nothing else
decides. It must be entered inside the traced function (LoRA.apply does): jit's cache key does not know of it.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lora_jax import creation, dora
from lora_jax.config import LoRAConfig
from lora_jax.errors import TargetError
from lora_jax.layers import RULES, Call, Rule, bound, rule_for
from lora_jax.leaves import NAMES, A, Adapter


@dataclasses.dataclass(frozen=True)
class Seen:
    """What one run of a model showed, filled while Python traces it."""

    layers: set[tuple[str, bool]] = dataclasses.field(default_factory=set)  # (path, is_linear) that init could adapt
    served: set[str] = dataclasses.field(default_factory=set)  # paths of adapters that had their side path
    unknown: dict[str, str] = dataclasses.field(default_factory=dict)  # path of an adapter -> a call that has no rule

    def require_served(self) -> None:
        """Raises TargetError for an adapter whose layer ran without it; a layer that did not run is none of them."""
        path = next((path for path in self.unknown if path not in self.served), None)
        if path is not None:
            kinds = ", ".join(kind.__name__ for kind in RULES)
            raise TargetError(
                f"there is an adapter at {f'{path}/{A}'.lstrip('/')}, where {self.unknown[path]} has no rule for it (LoRA adapts the calls of "
                f"{kinds}): it would be ignored; merge it into the kernel (lora_jax.merge), or take it out of the tree."
            )


def make_interceptor(config: LoRAConfig, seen: Seen, dropout: int | float) -> Callable:
    """An interceptor for `nn.intercept_methods`.

    Args:
      config: decides, while parameters are being initialised, which layers get an adapter; not read at apply time.
      seen: filled.
      dropout: rate on the input of `a`; 0 where `apply` got no rng for it.
    """

    def interceptor(next_fun: Callable, args: tuple, kwargs: dict[str, Any], context: nn.module.InterceptorContext):
        module, method = context.module, context.method_name
        if module.scope is None:
            return next_fun(*args, **kwargs)
        path = "/".join(module.path)
        rule = rule_for(module, context.orig_method.func)  # Flax binds the method with functools.partial
        if rule is None:
            if method != "setup" and module.scope.has_variable("params", A):
                seen.unknown[path] = f"{type(module).__name__}.{method}"
            return next_fun(*args, **kwargs)
        base, inputs, rest = bound(next_fun, context.orig_method, args, kwargs)
        y = None
        if module.is_initializing():
            y = base(inputs)  # makes the kernel
            creation.maybe_create(module, rule, config, seen.layers, inputs, rest)
        if not module.scope.has_variable("params", A):
            return base(inputs) if y is None else y
        seen.served.add(path)
        return _adapted(module, method, rule, base, inputs, rest, dropout, y)

    return interceptor


def _adapted(module: nn.Module, method: str, rule: Rule, base: Call, inputs, rest: list, dropout: int | float, y: Any):
    """What the layer gives with its adapter; `y` is what it gives without, where that is known already."""
    adapter = Adapter(*(_variable(module, name) for name in NAMES))
    kernel = _variable(module, rule.kernel)
    gain = None
    if adapter.magnitude is not None:
        gain = rule.spread(module, kernel, inputs, dora.gain(kernel, adapter), *rest)
    if gain is not None and method in rule.scales_input:
        inputs, gain = inputs * _like(gain, inputs), None
    y = base(inputs) if y is None else y
    is_ids = isinstance(module, nn.Embed) and method == "__call__"
    x = inputs if is_ids else _dropout(module, dropout, inputs.astype(y.dtype))
    side = rule.sides[method](module, kernel, x, *adapter.factors(), adapter.scale, *rest).astype(y.dtype)
    return y + side if gain is None else _rescaled(module, y, side, gain)


def _rescaled(module: nn.Module, y: jax.Array, side: jax.Array, gain: jax.Array) -> jax.Array:
    """`gain * (y + side)`, the bias left as it is; written so that it is y exactly where gain is 1 and the side path 0."""
    bias = _variable(module, "bias")
    without_bias = y if bias is None else y - _like(bias.reshape(gain.shape), y)
    return y + (_like(gain - 1, y) * without_bias + _like(gain, y) * side)


def _like(value: jax.Array, y: jax.Array) -> jax.Array:
    """Ready to be broadcast against y, in its dtype."""
    return value.reshape((1,) * (y.ndim - value.ndim) + value.shape).astype(y.dtype)


def _variable(module: nn.Module, name: str) -> Any:
    """A parameter of the layer; None where it has none."""
    return nn.meta.unbox(module.scope.get_variable("params", name))


def _dropout(module: nn.Module, rate: int | float, x: jax.Array) -> jax.Array:
    """Inverted dropout on the input of `a`, from the model's "dropout" stream."""
    if rate == 0:
        return x
    if not module.has_rng("dropout"):  # a lifted transform, such as nn.scan, passes on only the streams it names
        raise TargetError(
            f"{'/'.join(module.path)} is inside a lifted module that hides the 'dropout' rng, which adapter dropout "
            "needs; add split_rngs={'dropout': True} there, or set dropout=0."
        )
    keep = jax.random.bernoulli(module.make_rng("dropout"), 1 - rate, x.shape)
    return jnp.where(keep, x / (1 - rate), 0)
