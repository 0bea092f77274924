"""Merging as a pure function: a plain base tree whose kernels are W + scale * a @ b."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lora_jax import lowrank
from lora_jax.adapter import strip
from lora_jax.errors import TreeError
from lora_jax.interceptor import SCALE, A, B
from lora_jax.tree import Params, flat, nested

KERNELS = ("kernel", "embedding")


def merge(params: Params) -> dict:
    """The base with the adapters folded in; the input is not changed, and `strip` still gives the old base.

    The sum is taken in float32 and cast to the kernel's dtype once. Hu et al. 2021 (arXiv:2106.09685), section 4.1.

    Raises:
      TreeError: when there is no adapter (merged already?), or a merged kernel is not finite (outside jit); it names
        the module.

    >>> params = {"kernel": jnp.ones((2, 2)), "lora_a": jnp.ones((2, 1)), "lora_b": jnp.ones((1, 2)),
    ...           "lora_scale": jnp.asarray(0.5)}
    >>> merge(params)["kernel"].tolist()
    [[1.5, 1.5], [1.5, 1.5]]
    """
    leaves = flat(params)
    modules = [path.removesuffix(A) for path in leaves if path.rpartition("/")[2] == A]
    if not modules:
        raise TreeError("merge: these parameters hold no adapter; they are a base, or merged already.")
    merged = flat(strip(params))
    for module in modules:
        path = kernel_path(leaves, module)
        merged[path] = _merged_kernel(path, leaves[path], *(leaves[module + name] for name in (A, B, SCALE)))
    return nested(merged)


def kernel_path(leaves: Mapping[str, Any], module: str) -> str:
    """The path of the kernel that the adapter at `module` (a path with its slash) belongs to.

    Raises:
      TreeError: when there is none, as in an adapter without its base.
    """
    path = next((module + name for name in KERNELS if module + name in leaves), None)
    if path is None:
        raise TreeError(
            f"there is an adapter at {module + A} and no kernel beside it; pass the whole tree, base and adapter: "
            "lora_jax.combine(base_params, adapter)."
        )
    return path


def _merged_kernel(path: str, kernel, a, b, scale) -> jax.Array:
    value = jnp.asarray(kernel, jnp.promote_types(jnp.float32, kernel.dtype))
    lead = scale.ndim
    if a.ndim != lead + 2 or a.shape[:lead] != kernel.shape[:lead]:
        raise TreeError(
            f"merge: {path} {kernel.shape} does not fit {A} {a.shape} with scale {scale.shape}; "
            "layers may be stacked along axis 0 of their parameters only."
        )
    value = (value + lowrank.delta(a, b, scale).reshape(kernel.shape)).astype(kernel.dtype)
    if not isinstance(value, jax.core.Tracer) and not bool(jnp.isfinite(value).all()):
        raise TreeError(f"merge: {path} has non-finite values once its adapter is added; the adapter diverged.")
    return value
