"""Causal attention with grouped key/value heads: within packed documents, and over a cache.

Letters: B batch, T tokens, H query heads, G key/value heads (H a multiple of G), K head width, S cache slots.
"""

import functools

import jax
import jax.numpy as jnp


def positions_within(segments: jax.Array) -> jax.Array:
    """int32 [B, T]: each token's place in its own document; documents are runs of one number in `segments` [B, T].

    >>> positions_within(jnp.array([[1, 1, 2, 2, 2, 0]])).tolist()
    [[0, 1, 0, 1, 2, 0]]
    """
    place = jnp.arange(segments.shape[1])[None]
    is_first = jnp.pad(segments[:, 1:] != segments[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    return (place - jax.lax.cummax(jnp.where(is_first, place, 0), axis=1)).astype(jnp.int32)


def within_documents(q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array) -> jax.Array:
    """Each token of q [B, T, H, K] attends to the tokens before it, and itself, of its own document; [B, T, H, K].

    Args:
      k, v: [B, T, G, K].
      segments: int32 [B, T], the document of each token.
    """
    if jax.default_backend() == "cpu":
        # One row at a time: the scores [H, T, T] then stay in the cache, and are computed again in the backward
        # pass rather than kept. BUILD_NOTES.md has the measurement.
        row = jax.checkpoint(functools.partial(_attend_row))
        return jax.lax.map(lambda row_of: row(*row_of), (q, k, v, segments))
    return jax.vmap(_attend_row)(q, k, v, segments)


def _attend_row(q, k, v, segments):
    """One row: q [T, H, K], k and v [T, G, K], segments [T]."""
    t = q.shape[0]
    seen = (segments[:, None] == segments[None, :]) & (jnp.arange(t)[:, None] >= jnp.arange(t)[None, :])
    return _softmax_attention(q, k, v, seen)


def over_cache(q: jax.Array, keys: jax.Array, values: jax.Array, positions: jax.Array) -> jax.Array:
    """Tokens q [B, T, H, K] at `positions` [B, T] attend to the slots of keys and values [B, S, G, K] up to their own."""
    seen = jnp.arange(keys.shape[1])[None, None, :] <= positions[..., None]  # [B, T, S]
    return jax.vmap(_softmax_attention)(q, keys, values, seen)


def _softmax_attention(q, k, v, seen):
    """[T, H, K] from q [T, H, K], k and v [S, G, K] and seen bool [T, S]; softmax in float32."""
    t, h, width = q.shape
    groups = k.shape[1]
    q = q.reshape(t, groups, h // groups, width)
    scores = jnp.einsum("tgrk,sgk->grts", q, k) / jnp.sqrt(width).astype(q.dtype)
    scores = jnp.where(seen[None, None], scores.astype(jnp.float32), jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(q.dtype)
    return jnp.einsum("grts,sgk->tgrk", weights, v).reshape(t, h, width)


def put(cache: jax.Array, new: jax.Array, positions: jax.Array) -> jax.Array:
    """`cache` [B, S, G, K] with `new` [B, T, G, K] in the slots `positions` [B, T]; positions beyond S are dropped."""
    return jax.vmap(lambda row, at, values: row.at[at].set(values, mode="drop"))(cache, positions, new)
