"""Attention of every token to every token that is no padding. Letters: B batch, Q queries, T tokens, H heads, K head width."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from lora_jax.models.attention import is_fused, on_accelerator


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: jax.Array,
    drop: Callable[[jax.Array], jax.Array] | None = None,
    *,
    by_jax: bool | None = None,
) -> jax.Array:
    """Context [B, Q, H, K] of q [B, Q, H, K] over k and v [B, T, H, K]; softmax in float32, in which a row without tokens weighs all alike.

    Args:
      mask: bool [B, T], True where a token is real.
      drop: dropout of the weights [B, H, Q, T].
      by_jax: whether `jax.nn.dot_product_attention` computes it, which has no dropout: cuDNN's fused one where that applies, else XLA's. None is
        whether this is an accelerator.

    >>> x = jnp.ones((1, 3, 2, 4))
    >>> attend(x, x, x, jnp.ones((1, 3), bool)).shape
    (1, 3, 2, 4)
    """
    if drop is None and (on_accelerator() if by_jax is None else by_jax):
        seen = jnp.broadcast_to(
            mask[:, None, None, :], (len(q), 1, q.shape[1], k.shape[1])
        )  # cuDNN's takes no narrower one
        way = "cudnn" if is_fused(q, k, has_mask=True) else "xla"
        return jax.nn.dot_product_attention(q, k, v, mask=seen, implementation=way)
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / jnp.sqrt(q.shape[-1]).astype(q.dtype)
    scores = jnp.where(mask[:, None, None, :], scores.astype(jnp.float32), jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores).astype(q.dtype)
    return jnp.einsum("bhqk,bkhd->bqhd", weights if drop is None else drop(weights), v)
