"""Adapters as data: make one for a trained base, take it out, put another in, switch it off."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lora_jax import dora
from lora_jax.errors import ConfigError, TreeError
from lora_jax.intake import adapted, described, is_key, parts, require_values, tree_of
from lora_jax.leaves import (
    MAGNITUDE,
    NORM,
    SCALE,
    adapter_at,
    at_place,
    is_adapter_leaf,
    kernel_path,
    kernel_paths,
    modules,
    name_of,
    require_fit,
)  # fmt: skip
from lora_jax.norms import require_norms
from lora_jax.scalars import number
from lora_jax.starts import require_finite
from lora_jax.tree import Params, differences, flat, nested


def adapt(key: jax.Array, base_params: Params, model: Any, *args: Any, **kwargs: Any) -> dict:
    """The trained base with a fresh adapter, equal to that of `model.init(key, *args, **kwargs)` on this base.

    Args:
      key: a PRNG key; names the adapter.
      base_params: the parameters of `model.base_module`; used as they are, never copied or changed. Of NNX also an `nnx.State` or a pure dict of one.
      model: the LoRA wrapper, of `lora_jax` or `lora_jax.nnx`.
      *args, **kwargs: an example input, as for `model.init`.

    Returns:
      A tree of the base's leaves and, beside each adapted kernel, `lora_a`, `lora_b`, `lora_scale` and what the config's variant needs.

    Raises:
      TreeError: when `base_params` are not those of the model's base; it lists every difference.
      TargetError: when a pattern of the config selects no layer.

    >>> import flax.linen as nn
    >>> from lora_jax import LoRA, LoRAConfig
    >>> base, x = nn.Dense(4), jnp.ones((1, 3))
    >>> base_params = base.init(jax.random.key(0), x)["params"]
    >>> params = adapt(jax.random.key(1), base_params, LoRA(base, LoRAConfig(rank=2, targets="*")), x)
    >>> sorted(params), params["kernel"] is base_params["kernel"]
    (['bias', 'kernel', 'lora_a', 'lora_b', 'lora_scale'], True)
    """
    _require_order(key, base_params, model)
    return model.onto(key, base_params, *args, **kwargs)


def _require_order(key: Any, base_params: Any, model: Any) -> None:
    """Raises TreeError or ConfigError where an argument is none that its place takes."""
    keys = list(key.values()) if isinstance(key, Mapping) else [key]
    given = f"the key is {described(key)}, base_params {described(base_params)}, the model {described(model)}"
    if not keys or not all(map(is_key, keys)):
        raise TreeError(
            f"adapt: {given}; a PRNG key comes first: write adapt(jax.random.key(0), base_params, model, x)."
        )
    if not hasattr(model, "onto"):
        raise ConfigError(
            f"adapt: {given}; the third argument is the wrapped model: write adapt(key, base_params, lora_jax.LoRA(module, config), x), or "
            "lora_jax.nnx.LoRA for NNX."
        )


def adapter_of(params: Params, where: str = "adapter_of: params") -> dict:
    """The adapter alone: `lora_a`, `lora_b`, `lora_scale` ... at their paths. Raises TreeError where there is none, in the name of `where`.

    >>> adapter_of({"head": {"kernel": 1, "lora_a": 2, "lora_b": 3, "lora_scale": 4}})
    {'head': {'lora_a': 2, 'lora_b': 3, 'lora_scale': 4}}
    """
    leaves = {path: leaf for path, leaf in tree_of(params, where).items() if is_adapter_leaf(path)}
    if not leaves:
        raise TreeError(f"{where}: these parameters hold no adapter; lora_jax.adapt makes one.")
    return nested(leaves)


def adapter_alone(params: Params, where: str = "the adapter") -> dict:
    """`adapter_of` a whole adapted tree, or of an adapter; what it leaves out is never what came along with an adapter.

    Raises:
      TreeError: when there is no adapter, only a part of one, or one with heads or biases and without its base.

    >>> adapter = {"lora_a": jnp.ones((2, 1)), "lora_b": jnp.ones((1, 3)), "lora_scale": jnp.ones(())}
    >>> sorted(adapter_alone({"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3), **adapter}))
    ['lora_a', 'lora_b', 'lora_scale']
    """
    adapter, leaves = adapter_of(params, where), adapted(params, where)
    is_whole = all(any(path in leaves for path in kernel_paths(module)) for module in modules(leaves))
    others = [path for path in leaves if not is_adapter_leaf(path)]
    if others and not is_whole:
        raise TreeError(
            f"the adapter comes with {', '.join(others[:3])}, which would be left out; pass lora_jax.adapter_of(...), and put heads and biases "
            "beside the result yourself."
        )
    return adapter


def strip(params: Params) -> dict:
    """The base, bit for bit: every leaf that is not of an adapter, the same arrays.

    >>> strip({"dense": {"kernel": 1, "lora_a": 2, "lora_b": 3, "lora_scale": 4}})
    {'dense': {'kernel': 1}}
    """
    return nested({path: leaf for path, leaf in tree_of(params, "strip: params").items() if not is_adapter_leaf(path)})


def swap(params: Params, adapter: Params) -> dict:
    """`params` with another adapter of the same shapes; a jitted function does not retrace.

    Raises:
      TreeError: all-or-nothing, listing every missing, unexpected and mis-shaped leaf.

    >>> params = {"kernel": jnp.ones((2, 2)), "lora_a": jnp.ones((2, 1)), "lora_b": jnp.zeros((1, 2)), "lora_scale": jnp.ones(())}
    >>> other = {"lora_a": jnp.ones((2, 1)), "lora_b": jnp.ones((1, 2)), "lora_scale": jnp.ones(())}
    >>> swap(params, other)["lora_b"].tolist()
    [[1.0, 1.0]]
    """
    current, adapter = flat(adapter_of(params, "swap: params")), tree_of(adapter, "swap: the adapter")
    problems = differences(current, adapter)
    if problems:
        raise TreeError(f"this adapter does not fit: {'; '.join(problems)}.")
    leaves = {**flat(params), **adapter}
    require_norms(leaves, "swap")
    return nested(leaves)


def rebase(base_params: Params, adapter: Params) -> dict:
    """The adapter on another base of the same shapes, a quantised one say: the norms that DoRA caches are taken of its kernels.

    Of a whole adapted tree the adapter is taken, and not its heads and biases, those that trained included: all else is `base_params`'.

    Raises:
      TreeError: where the adapter has no kernel, or one of another shape; for an adapter with heads or biases and without its base.

    >>> adapter = {"lora_a": jnp.ones((2, 1)), "lora_b": jnp.zeros((1, 2)), "lora_scale": jnp.ones(())}
    >>> sorted(rebase({"kernel": jnp.ones((2, 2))}, adapter))
    ['kernel', 'lora_a', 'lora_b', 'lora_scale']
    """
    base = tree_of(base_params, "rebase: base_params")
    leaves = {
        **{path: leaf for path, leaf in base.items() if not is_adapter_leaf(path)},
        **flat(adapter_alone(adapter, "rebase: the adapter")),
    }
    for module in modules(leaves):
        path, own = kernel_path(leaves, module), adapter_at(leaves, module)
        kernel = nn.meta.unbox(leaves[path])
        require_fit(path, kernel.shape, own, module)
        if own.norm is not None:
            require_finite(path, kernel)
            leaves[module + NORM] = at_place(module, lambda kernel, own: dora.norm_like(own.norm, kernel))(kernel, own)
    adapted(nested(leaves), "rebase: the result")
    return nested(leaves)


def scaled(params: Params, factor: int | float | jax.Array) -> dict:
    """`params` with every `lora_scale` times `factor`; 0 switches the adapter off, and nothing retraces.

    A magnitude (DoRA) is moved likewise, from the norm of the base's kernel (0) to where it is (1). With factor 0 the outputs are
    those of the base exactly, as long as the adapter's own values are finite.

    >>> params = {"kernel": jnp.ones((2, 2)), "lora_a": jnp.ones((2, 1)), "lora_b": jnp.ones((1, 2)), "lora_scale": jnp.asarray(2.0)}
    >>> float(scaled(params, 0.5)["lora_scale"]), float(scaled(params, 0)["lora_scale"])
    (1.0, 0.0)
    """
    adapter_of(params, "scaled: params")  # raises where there is nothing to scale
    leaves = parts(params, "scaled: params")  # which may be the frozen part alone, where the scales are
    if (
        not isinstance(factor, jax.core.Tracer)
        and not abs(number(factor) if number(factor) is not None else np.inf) < 1e30
    ):
        raise TreeError(f"scaled: the factor is {factor!r}; it must be a finite number, which float32 holds.")
    require_values(
        {path: leaf for path, leaf in leaves.items() if name_of(path) in (SCALE, MAGNITUDE, NORM)}, "scaled: params"
    )
    changed = {}
    for path, leaf in leaves.items():
        if name_of(path) == SCALE:
            changed[path] = leaf * jnp.asarray(factor, leaf.dtype)
        elif name_of(path) == MAGNITUDE:
            if path.removesuffix(MAGNITUDE) + NORM not in leaves:
                raise TreeError(f"scaled: params has {path} without the norm that it begins at; pass the whole tree.")
            norm = leaves[path.removesuffix(MAGNITUDE) + NORM]
            changed[path] = norm + (leaf - norm) * jnp.asarray(factor, leaf.dtype)
    return nested({**leaves, **changed})
