"""Matrix products in bfloat16 with float32 sums, for the layers of a model whose weights are frozen, or tolerate it.

x86 processors with AVX512-BF16 run them at twice float32's rate, but XLA does so only if all of three products (y = x W, and backward
dx = dy W', dW = x' dy) have bfloat16 factors and a float32 result: with a bfloat16 result it widens the factors first, and `precision=` is
ignored (BUILD_NOTES.md has the measurement). Hence a rule of its own for the gradient.
"""

from typing import Any

import jax
import jax.numpy as jnp


@jax.custom_vjp
def _product(x: jax.Array, w: jax.Array) -> jax.Array:
    """x [..., D] @ w [D, K] -> float32 [..., K]."""
    return jnp.matmul(x.astype(jnp.bfloat16), w.astype(jnp.bfloat16), preferred_element_type=jnp.float32)


def _forward(x: jax.Array, w: jax.Array):
    x16, w16 = x.astype(jnp.bfloat16), w.astype(jnp.bfloat16)
    return jnp.matmul(x16, w16, preferred_element_type=jnp.float32), (
        x16,
        w16,
        jnp.zeros((), x.dtype),
        jnp.zeros((), w.dtype),
    )


def _backward(kept, dy: jax.Array):
    x, w, like_x, like_w = kept
    dy = dy.astype(jnp.bfloat16)
    dx = jnp.matmul(dy, w.T, preferred_element_type=jnp.float32)
    dw = jnp.matmul(x.reshape(-1, x.shape[-1]).T, dy.reshape(-1, dy.shape[-1]), preferred_element_type=jnp.float32)
    return dx.astype(like_x.dtype), dw.astype(like_w.dtype)


_product.defvjp(_forward, _backward)


def bfloat16(lhs: jax.Array, rhs: jax.Array, dimension_numbers: Any, precision: Any = None, **kwargs: Any) -> jax.Array:
    """`lax.dot_general` for `flax.linen.Dense(dot_general=...)`: [..., D] @ [D, K], rounded to bfloat16 on the way in, float32 out.

    The relative error of a product is about 2**-9. Any other contraction is done as `lax.dot_general` does it.

    >>> import flax.linen as nn
    >>> layer = nn.Dense(2, dot_general=bfloat16)
    >>> layer.init_with_output(jax.random.key(0), jnp.ones((1, 3)))[0].dtype
    dtype('float32')
    """
    if dimension_numbers != (((lhs.ndim - 1,), (0,)), ((), ())) or rhs.ndim != 2:
        return jax.lax.dot_general(lhs, rhs, dimension_numbers, precision=precision, **kwargs)
    return _product(lhs, rhs)
