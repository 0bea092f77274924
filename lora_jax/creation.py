"""Adapters at `init`: a layer that the config targets gets its leaves."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lora_jax import starts, targets
from lora_jax.config import LoRAConfig
from lora_jax.layers import Rule
from lora_jax.leaves import A, Adapter, as_leaves

_ADAPTER = 0x10BA  # sets an adapter's key apart from the base's next one


def maybe_create(module: nn.Module, rule: Rule, config: LoRAConfig, seen: set, inputs: Any, rest: list) -> None:
    """Notes the layer in `seen`, and puts adapter leaves beside its kernel if the config targets it and none are there."""
    path = "/".join(module.path)
    seen.add((path, rule.is_linear))
    if module.scope.has_variable("params", A) or not targets.is_target(config, path, is_linear=rule.is_linear):
        return
    kernel = nn.meta.unbox(module.scope.get_variable("params", rule.kernel))
    split = rule.split(module, kernel, inputs, *rest)
    rank, alpha = targets.rank_and_alpha(config, path)
    shape = math.prod(kernel.shape[: split.at]), math.prod(kernel.shape[split.at :])
    starts.require_room(path, config, rank, shape)
    is_embed = isinstance(module, nn.Embed)
    a, b = starts.drawn(_own_key(module), config, shape, rank, random=split.random, is_embed=is_embed)
    scale = jnp.asarray(config.scale(rank=rank, alpha=alpha), jnp.float32)
    norm = None
    if config.dora:
        norm = jnp.ones([1 if i in split.inputs else size for i, size in enumerate(kernel.shape)])
    begun = starts.from_base(config, kernel, Adapter(a, b, scale, norm=norm))
    for name, value in as_leaves(begun).items():
        module.scope.put_variable("params", name, value)


def _own_key(module: nn.Module) -> jax.Array:
    """A key from the "params" stream that leaves the stream as it was.

    nn.scan traces its body twice over one counter: a draw of ours in the first pass would change the base's kernels.
    """
    counters = module.scope.rng_counters
    before = counters["params"]
    key = jax.random.fold_in(module.scope.make_rng("params"), _ADAPTER)
    counters["params"] = before
    return key
