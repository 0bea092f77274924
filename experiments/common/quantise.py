"""A base as QLoRA stores it: kernels in 4-bit NormalFloat, one absolute maximum per block of 64.

Dettmers et al. 2023 (arXiv:2305.14314), section 3 and appendix E. Values come back as float32: the error of the
format is real, its memory saving is not shown here.
"""

from typing import Any

import jax
import jax.numpy as jnp

BLOCK = 64
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


def nf4(kernel: jax.Array) -> jax.Array:
    """`kernel` [D, K] rounded to the format."""
    flat = kernel.reshape(-1)
    blocks = jnp.pad(flat, (0, -flat.size % BLOCK)).reshape(-1, BLOCK)
    largest = jnp.maximum(jnp.abs(blocks).max(axis=1, keepdims=True), 1e-12)
    levels = jnp.asarray(NF4)
    nearest = jnp.abs((blocks / largest)[..., None] - levels[None, None]).argmin(axis=-1)
    return (levels[nearest] * largest).reshape(-1)[: flat.size].reshape(kernel.shape)


def quantised(params: Any) -> Any:
    """Every matrix of a tree through `nf4`; vectors (biases) as they are."""
    return jax.tree.map(lambda leaf: nf4(leaf) if leaf.ndim == 2 else leaf, params)
