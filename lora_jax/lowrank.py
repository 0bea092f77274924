"""Pure array maths of a low-rank update. Read this first.

Letters: B batch, D features in, K features out, R rank. A Flax kernel is W [D, K]; the adapted one is
`W + scale * a @ b` with a [D, R] and b [R, K] (the papers write B A on [K, D]).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Scale = Float[Array | np.ndarray, ""]  # from JAX 0.11 on a scalar that a scan closes over arrives as numpy's


def delta(a: Float[Array, "*L D R"], b: Float[Array, "*L R K"], scale: Float[Array, "*L"]) -> Float[Array, "*L D K"]:
    """The update `scale * a @ b`, in float32 at least; leading axes L (scanned or vmapped layers) are batched.

    Hu et al. 2021 (arXiv:2106.09685), equation 3.

    >>> delta(jnp.ones((3, 2)), jnp.ones((2, 4)), jnp.asarray(0.5)).shape
    (3, 4)
    """
    dtype = jnp.promote_types(jnp.float32, a.dtype)
    return scale.astype(dtype)[..., None, None] * jnp.matmul(a.astype(dtype), b.astype(dtype))


def side_path(
    x: Float[Array, "*B D"], a: Float[Array, "D R"], b: Float[Array, "R K"], scale: Scale
) -> Float[Array, "*B K"]:
    """`x @ (scale * a @ b)` without ever forming the [D, K] product, in the dtype of `x`.

    The leading axes are flattened first: a gradient that contracts two axes at once takes a slow path in XLA on
    CPU. The scale multiplies the narrow [B, R] array.

    >>> side_path(jnp.ones((5, 7, 3)), jnp.ones((3, 2)), jnp.ones((2, 4)), jnp.asarray(0.5)).shape
    (5, 7, 4)
    """
    return wide_side_path(x, a, b, scale).astype(x.dtype)


def wide(dtype: Any) -> Any:
    """The dtype of what lies between the factors: that of the input, but float32 for float16.

    `x @ a` can leave float16's range, and `a` fall below it, where neither `scale * a @ b` nor its product does.

    >>> wide(jnp.float16).name, wide(jnp.bfloat16).name
    ('float32', 'bfloat16')
    """
    return jnp.dtype(jnp.float32 if dtype == jnp.float16 else dtype)


@functools.partial(jax.checkpoint, policy=jax.checkpoint_policies.dots_saveable, prevent_cse=False)
def wide_side_path(
    x: Float[Array, "*B D"], a: Float[Array, "D R"], b: Float[Array, "R K"], scale: Scale
) -> Float[Array, "*B K"]:
    """`side_path` in the dtype that it was computed in (see `wide`), for the sum with the layer's output.

    >>> one = jnp.ones((1, 1))
    >>> float(wide_side_path(one.astype(jnp.float16), 1e6 * one, 1e-6 * one, jnp.asarray(2.0))[0, 0])
    2.0
    """
    # Layers that read the same x keep it once for the backward pass, not each a flattened or wider copy; products are kept.
    rows = x.reshape(-1, x.shape[-1]).astype(wide(x.dtype))
    narrow = rows @ a.astype(rows.dtype)  # [B, R]
    return scaled_matmul(narrow, b, scale).reshape(*x.shape[:-1], b.shape[-1])


def scaled_matmul(narrow: Float[Array, "*B R"], b: Float[Array, "R K"], scale: Scale) -> Float[Array, "*B K"]:
    """The second half of the side path, `(scale * narrow) @ b`, its leading axes flattened too."""
    rows = narrow.reshape(-1, narrow.shape[-1]) * scale.astype(narrow.dtype)
    return (rows @ b.astype(narrow.dtype)).reshape(*narrow.shape[:-1], b.shape[-1])


def pad_rank(a: Float[Array, "*L D r"], b: Float[Array, "*L r K"], rank: int) -> tuple[Array, Array]:
    """Zero columns for `a` and zero rows for `b`, up to `rank`: the same update, and the same training.

    The gradient of a padded column of `a` is `x^T g b_pad^T = 0`, and of a padded row of `b` is `(x a_pad)^T g = 0`:
    an element-wise optimiser leaves both at zero.

    >>> a, b = pad_rank(jnp.ones((3, 2)), jnp.ones((2, 4)), 5)
    >>> a.shape, b.shape
    ((3, 5), (5, 4))
    """
    extra = rank - a.shape[-1]
    if extra < 0:
        raise ValueError(f"rank {a.shape[-1]} cannot be padded down to {rank}.")
    lead = [(0, 0)] * (a.ndim - 2)
    return jnp.pad(a, [*lead, (0, 0), (0, extra)]), jnp.pad(b, [*lead, (0, extra), (0, 0)])


def best_error(target: Float[Array, "D K"]) -> Float[Array, " n"]:
    """`||target - X||_F^2` of the best X of rank r, for r = 0 ... min(D, K): the sum of sigma_i^2 over i > r.

    Eckart and Young 1936, "The approximation of one matrix by another of lower rank".

    >>> [round(error, 3) for error in best_error(jnp.diag(jnp.array([3.0, 2.0]))).tolist()]
    [13.0, 4.0, 0.0]
    """
    squares = jnp.linalg.svd(target, compute_uv=False) ** 2
    tails = jnp.cumsum(squares[::-1])[::-1]
    return jnp.concatenate([tails, jnp.zeros(1, tails.dtype)])
