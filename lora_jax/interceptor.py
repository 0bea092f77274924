"""The side path at run time: a stateless, presence-based interceptor of Flax method calls.

Wherever the scope of a known layer holds `lora_a`, the layer's output gets the low-rank path added; nothing else
decides. It must be entered inside the traced function (LoRA.apply does): jit's cache key does not know of it.
"""

import inspect
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lora_jax import targets
from lora_jax.config import LoRAConfig
from lora_jax.errors import TargetError
from lora_jax.layers import Rule, Split, rule_for

A, B, SCALE = "lora_a", "lora_b", "lora_scale"
_ADAPTER = 0x10BA  # sets an adapter's key apart from the base's next one


def make_interceptor(config: LoRAConfig, seen: set[tuple[str, bool]], dropout: int | float) -> Callable:
    """An interceptor for `nn.intercept_methods`.

    Args:
      config: decides, while parameters are being initialised, which layers get an adapter; not read at apply time.
      seen: filled, while initialising, with (path, is_linear) of every layer that could be adapted.
      dropout: rate on the input of `a`; 0 where `apply` got no rng for it.
    """

    def interceptor(next_fun: Callable, args: tuple, kwargs: dict[str, Any], context: nn.module.InterceptorContext):
        module, method = context.module, context.method_name
        rule = rule_for(module, context.orig_method.func)  # Flax binds the method with functools.partial
        if rule is None or module.scope is None:
            return next_fun(*args, **kwargs)
        y = next_fun(*args, **kwargs)
        inputs, *rest = inspect.signature(context.orig_method).bind(*args, **kwargs).arguments.values()
        if module.is_initializing():
            _maybe_create(module, rule, config, seen, inputs, rest)
        if not module.scope.has_variable("params", A):
            return y
        a, b, scale = (module.scope.get_variable("params", name) for name in (A, B, SCALE))
        if jnp.issubdtype(inputs.dtype, jnp.floating):
            inputs = _dropout(module, dropout, inputs.astype(y.dtype))
        side = rule.sides[method](module, _kernel(module, rule), inputs, a, b, scale, *rest)
        return y + side.astype(y.dtype)

    return interceptor


def _kernel(module: nn.Module, rule: Rule) -> jax.Array:
    return nn.meta.unbox(module.scope.get_variable("params", rule.kernel))


def _maybe_create(module, rule: Rule, config: LoRAConfig, seen, inputs, rest) -> None:
    path = "/".join(module.path)
    seen.add((path, rule.is_linear))
    if module.scope.has_variable("params", A) or not targets.is_target(config, path, is_linear=rule.is_linear):
        return
    kernel = _kernel(module, rule)
    split = rule.split(module, kernel, inputs, *rest)
    rank, alpha = targets.rank_and_alpha(config, path)
    a, b = _draw(module, kernel.shape, split, rank, config)
    scale = jnp.asarray(config.scale(rank=rank, alpha=alpha), jnp.float32)
    for name, value in ((A, a), (B, b), (SCALE, scale)):
        module.scope.put_variable("params", name, value)


def _draw(module, kernel_shape: tuple[int, ...], split: Split, rank: int, config: LoRAConfig):
    """The two factors, float32: random on the input side of the layer, zero on the other.

    An embedding's input side is its width, as in PEFT: rows of tokens that never occur then stay zero.
    """
    leading, trailing = math.prod(kernel_shape[: split.at]), math.prod(kernel_shape[split.at :])
    key = _own_key(module)
    if split.random == "a":
        return config.init_a(key, (leading, rank)), jnp.zeros((rank, trailing))
    if isinstance(module, nn.Embed):  # PEFT draws lora_embedding_B from N(0, 1) whatever the initialiser
        return jnp.zeros((leading, rank)), jax.random.normal(key, (rank, trailing))
    return jnp.zeros((leading, rank)), config.init_a(key, (trailing, rank)).T


def _own_key(module: nn.Module) -> jax.Array:
    """A key from the "params" stream that leaves the stream as it was.

    nn.scan traces its body twice over one counter: a draw of ours in the first pass would change the base's kernels.
    """
    counters = module.scope.rng_counters
    before = counters["params"]
    key = jax.random.fold_in(module.scope.make_rng("params"), _ADAPTER)
    counters["params"] = before
    return key


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
