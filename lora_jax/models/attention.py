"""Causal attention with grouped key/value heads: within packed documents, and over a cache.

Letters: B batch, T tokens, H query heads, G key/value heads (H a multiple of G), K head width, S cache slots.
"""

import functools

import jax
import jax.numpy as jnp

QUERIES = 64  # of a row, at a time, on a CPU


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
        # One row at a time, a few queries at a time: the scores then stay in the cache, those of later keys are never
        # computed, and they are computed again in the backward pass rather than kept. BUILD_NOTES.md has the measurement.
        row = jax.checkpoint(functools.partial(_attend_row, queries=QUERIES))
        return jax.lax.map(lambda row_of: row(*row_of), (q, k, v, segments))
    return jax.vmap(functools.partial(_attend_row, queries=q.shape[1]))(q, k, v, segments)


def _attend_row(q, k, v, segments, *, queries: int):
    """One row: q [T, H, K], k and v [T, G, K], segments [T]; so many queries at a time, each against the keys up to the last."""
    t = q.shape[0]
    place = jnp.arange(t)

    def attend(start: int, stop: int):
        seen = (segments[start:stop, None] == segments[None, :stop]) & (place[start:stop, None] >= place[None, :stop])
        return _softmax_attention(q[start:stop], k[:stop], v[:stop], seen)

    return jnp.concatenate([attend(start, min(start + queries, t)) for start in range(0, t, queries)])


def over_cache(q: jax.Array, keys: jax.Array, values: jax.Array, positions: jax.Array) -> jax.Array:
    """Tokens q [B, T, H, K] at `positions` [B, T] attend to the slots of keys and values [B, S, G, K] up to their own."""
    seen = jnp.arange(keys.shape[1])[None, None, :] <= positions[..., None]  # [B, T, S]
    return jax.vmap(_softmax_attention)(q, keys, values, seen)


def _softmax_attention(q, k, v, seen):
    """[T, H, K] from q [T, H, K], k and v [S, G, K] and seen bool [T, S]; softmax in float32."""
    (t, h, width), (slots, groups, _) = q.shape, k.shape
    # The heads of a group read the same keys: they are further rows of one product, [G, T * H / G, K] by [G, K, S].
    rows = q.reshape(t, groups, h // groups, width).swapaxes(0, 1).reshape(groups, -1, width)
    scores = jnp.einsum("gmk,sgk->gms", rows / jnp.sqrt(width).astype(q.dtype), k).astype(jnp.float32)
    scores = jnp.where(seen[None, :, None], scores.reshape(groups, t, -1, slots), jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(q.dtype).reshape(groups, -1, slots)
    context = jnp.einsum("gms,sgk->gmk", weights, v)
    return context.reshape(groups, t, -1, width).swapaxes(0, 1).reshape(t, h, width)


def put(cache: jax.Array, new: jax.Array, positions: jax.Array) -> jax.Array:
    """`cache` [B, S, G, K] with `new` [B, T, G, K] in the slots `positions` [B, T]; positions beyond S are dropped."""
    return jax.vmap(lambda row, at, values: row.at[at].set(values, mode="drop"))(cache, positions, new)
