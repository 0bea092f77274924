"""Merging as a pure function: a plain base tree whose kernels are what adapter and kernel amount to."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lora_jax import axes, dora, lowrank
from lora_jax.adapter import strip
from lora_jax.errors import TreeError
from lora_jax.intake import adapted, require_values
from lora_jax.leaves import Adapter, adapter_at, is_adapter_leaf, kernel_path, modules, require_fit
from lora_jax.norms import require_norms
from lora_jax.products import places
from lora_jax.products.marked import total
from lora_jax.tree import Params, flat, nested, reboxed


def merge(params: Params) -> dict:
    """The base with the adapters folded in; the input is not changed, and `strip` still gives the old base.

    The sum W + scale * a @ b (and, for DoRA, its rescaling) is taken in float32 and cast to the kernel's dtype once. Hu et al. 2021
    (arXiv:2106.09685), section 4.1.

    Raises:
      TreeError: when there is no adapter (merged already?) or only a part of one, or a merged kernel is not finite (outside jit); it names
        the module.

    >>> params = {"kernel": jnp.ones((2, 2)), "lora_a": jnp.ones((2, 1)), "lora_b": jnp.ones((1, 2)),
    ...           "lora_scale": jnp.asarray(0.5)}
    >>> merge(params)["kernel"].tolist()
    [[1.5, 1.5], [1.5, 1.5]]
    """
    leaves = adapted(params, "merge: params")
    require_norms(leaves, "merge")
    if not modules(leaves):
        raise TreeError("merge: these parameters hold no adapter; they are a base, or merged already.")
    own = {module: kernel_path(leaves, module) for module in modules(leaves)}
    require_values({p: leaf for p, leaf in leaves.items() if is_adapter_leaf(p) or p in own.values()}, "merge: params")
    merged = flat(strip(params))
    for module, path in own.items():
        kernel = nn.meta.unbox(leaves[path])  # a quantised kernel is merged in the dtype it had
        value = _merged_kernel(path, kernel, adapter_at(leaves, module), module)
        merged[path] = reboxed(leaves[path], value)
    return nested(merged)


def _merged_kernel(path: str, kernel, adapter: Adapter, module: str) -> jax.Array:
    require_fit(path, kernel.shape, adapter, module)
    value = jnp.asarray(kernel, jnp.promote_types(jnp.float32, kernel.dtype))
    value = value + update(kernel.shape, adapter, module)
    if adapter.magnitude is not None:
        value = dora.merged(kernel, value, adapter, module)
    value = value.astype(kernel.dtype)
    if not isinstance(value, jax.core.Tracer) and not bool(jnp.isfinite(value).all()):
        raise TreeError(f"merge: {path} has non-finite values once its adapter is added; the adapter diverged.")
    return value


def update(shape: tuple[int, ...], adapter: Adapter, module: str) -> jax.Array:
    """What is added to a kernel of this shape, whose adapter lies at `module` (a path with its slash); a magnitude comes after it.

    >>> one = jnp.ones((1, 1))
    >>> update((1, 1), Adapter(one, one, jnp.asarray(0.5)), "layer/").tolist()
    [[0.5]]
    """
    told = axes.roles_in(module)
    if told is None:
        return lowrank.delta(*adapter.factors(), adapter.scale).reshape(shape)
    return total(places.term(adapter, shape, told[1]), shape)


def rounding_error(params: Params) -> dict[str, float]:
    """What `merge` loses by casting each kernel to its own dtype: path -> largest difference, over the largest entry of the sum.

    0 for a float32 base; about 2^-9 for bfloat16, where an update smaller than that of its kernel can vanish.

    >>> params = {"kernel": jnp.full((1, 1), 256.0, jnp.bfloat16), "lora_a": jnp.ones((1, 1)), "lora_b": jnp.ones((1, 1)),
    ...           "lora_scale": jnp.asarray(0.5)}
    >>> round(rounding_error(params)["kernel"], 6)  # 256.5 becomes 256
    0.001949
    """
    leaves, errors = adapted(params, "rounding_error: params"), {}
    require_norms(leaves, "rounding_error")
    if not modules(leaves):
        raise TreeError("rounding_error: these parameters hold no adapter; they are a base, or merged already.")
    for module in modules(leaves):
        path = kernel_path(leaves, module)
        kernel = nn.meta.unbox(leaves[path])
        whole = _merged_kernel(path, kernel.astype(jnp.float32), adapter_at(leaves, module), module)
        cast = whole.astype(kernel.dtype).astype(jnp.float32)
        errors[path] = float(
            jnp.abs(cast - whole).max() / jnp.maximum(jnp.abs(whole).max(), jnp.finfo(jnp.float32).tiny)
        )
    return errors
