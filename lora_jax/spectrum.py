"""Singular values and norms of an adapter's updates, from its factors: no weight-shaped array is made."""

import numpy as np

from lora_jax.errors import TreeError
from lora_jax.intake import adapted
from lora_jax.leaves import Adapter, adapter_at, modules
from lora_jax.tree import Params


def spectrum(params: Params) -> dict[str, np.ndarray]:
    """The singular values of `scale * a @ b` of every adapted layer, in descending order; float64 [*L, N].

    N is the least of D, K and the rank (twice the rank for PiSSA and OLoRA).

    A magnitude (DoRA) is no part of the low-rank update, and left out.

    Returns:
      path of the layer -> its singular values.

    >>> a, b = np.array([[2.0], [0.0]]), np.array([[0.0, 3.0]])
    >>> spectrum({"head": {"lora_a": a, "lora_b": b, "lora_scale": np.array(0.5)}})
    {'head': array([3.])}
    """
    leaves = adapted(params, "spectrum: params")
    if not modules(leaves):
        raise TreeError("spectrum: these parameters hold no adapter; lora_jax.adapt makes one.")
    return {module.rstrip("/"): singular_values(adapter_at(leaves, module)) for module in modules(leaves)}


def singular_values(adapter: Adapter) -> np.ndarray:
    """With a = Q T and b^T = P S, those of `a @ b` are those of the small matrix T S^T; nan if it is not finite."""
    a, b = (np.asarray(factor, np.float64) for factor in adapter.factors())
    with np.errstate(invalid="ignore", over="ignore"):  # of what is not finite
        t = np.linalg.qr(a, mode="r")
        s = np.linalg.qr(b.swapaxes(-1, -2), mode="r")
        product = t @ s.swapaxes(-1, -2)
    if not np.isfinite(product).all():  # an adapter that diverged still has its report
        return np.full(product.shape[:-2] + (min(product.shape[-2:]),), np.nan)
    values = np.linalg.svd(product, compute_uv=False)
    return np.abs(np.asarray(adapter.scale, np.float64))[..., None] * values
