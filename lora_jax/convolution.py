"""The side path of a convolution: one to R channels per group, then a 1x1 one."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from lora_jax import lowrank


def side_path(
    run: Callable[[jax.Array], jax.Array],
    kernel_shape: tuple[int, ...],
    groups: int,
    a: jax.Array,
    b: jax.Array,
    scale: jax.Array,
    dtype: jax.typing.DTypeLike,
) -> jax.Array:
    """`run` with kernel `reshape(scale * a @ b)`, which is never formed.

    Args:
      run: the convolution of the layer's input with a kernel [*window, D/G, any], in the layer's `groups` G.
      kernel_shape: [*window, D/G, K]; a kernel updates group by group.
      dtype: of the input.
    """
    rank = a.shape[-1]
    narrow_kernel = jnp.tile(a.reshape(*kernel_shape[:-1], rank), groups)  # [*window, D/G, G*R]
    narrow = run(narrow_kernel.astype(dtype))  # [B, *space, G*R]
    if groups == 1:
        return lowrank.scaled_matmul(narrow, b, scale)
    narrow = narrow.reshape(*narrow.shape[:-1], groups, rank)
    wide = b.reshape(rank, groups, -1).astype(dtype)  # [R, G, K/G]
    y = jnp.einsum("...gr,rgk->...gk", narrow * scale.astype(dtype), wide)
    return y.reshape(*y.shape[:-2], -1)
