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


def over_cache(
    q: jax.Array, k: jax.Array, v: jax.Array, keys: jax.Array, values: jax.Array, positions: jax.Array
) -> jax.Array:
    """New tokens attend to what a cache has of earlier positions, and to each other up to their own; [B, T, H, K].

    The cache is read only: what is new is put there afterwards, for all layers at once.

    Args:
      q: [B, T, H, K]; k, v: [B, T, G, K].
      keys, values: [B, G, K, S], the token of position p in slot p.
      positions: int32 [B, T], one after the other in each row.
    """
    return jax.vmap(_over_cache_row)(q, k, v, keys, values, positions)


def _over_cache_row(q, k, v, keys, values, positions):
    slots = keys.shape[-1]
    rows = _rows(q, k.shape[1])
    scores = jnp.concatenate([jnp.einsum("gmk,gks->gms", rows, keys), jnp.einsum("gmk,sgk->gms", rows, k)], axis=-1)
    earlier = jnp.broadcast_to(jnp.arange(slots) < positions[0], (len(q), slots))
    weights = _weights(scores, jnp.concatenate([earlier, positions[None, :] <= positions[:, None]], axis=-1))
    cached = jnp.einsum("gms,gks->gmk", weights[..., :slots], values)
    return _heads(cached + jnp.einsum("gms,sgk->gmk", weights[..., slots:], v), q.shape)


def _softmax_attention(q, k, v, seen):
    """[T, H, K] from q [T, H, K], k and v [S, G, K] and seen bool [T, S]."""
    weights = _weights(jnp.einsum("gmk,sgk->gms", _rows(q, k.shape[1]), k), seen)
    return _heads(jnp.einsum("gms,sgk->gmk", weights, v), q.shape)


def _rows(q, groups: int):
    """q [T, H, K], scaled, as [G, T * H / G, K]: the heads of a group read the same keys, so they are rows of one product."""
    t, h, width = q.shape
    rows = q.reshape(t, groups, h // groups, width).swapaxes(0, 1).reshape(groups, -1, width)
    return rows / jnp.sqrt(width).astype(q.dtype)


def _heads(context, shape):
    """The inverse of `_rows`, but the scale."""
    t, _, width = shape
    return context.reshape(len(context), t, -1, width).swapaxes(0, 1).reshape(shape)


def _weights(scores, seen):
    """Softmax in float32 of scores [G, T * H / G, S] over what each of T tokens sees, bool [T, S]."""
    of_token = scores.astype(jnp.float32).reshape(len(scores), len(seen), -1, scores.shape[-1])
    masked = jnp.where(seen[None, :, None], of_token, jnp.finfo(jnp.float32).min)
    return jax.nn.softmax(masked, axis=-1).astype(scores.dtype).reshape(scores.shape)


def put(cache: jax.Array, new: jax.Array, positions: jax.Array) -> jax.Array:
    """`cache` [L, B, G, K, S] with `new` [L, B, T, G, K] from slot `positions[:, 0]` on; all must fit into S.

    Row by row: as one scatter it takes a third of a generated token's time on a CPU (BUILD_NOTES.md).
    """
    new = jnp.moveaxis(new, 2, -1)  # [L, B, G, K, T]

    def row(b, cache):
        of_row = jax.lax.dynamic_slice_in_dim(new, b, 1, axis=1)
        return jax.lax.dynamic_update_slice(cache, of_row, (0, b, 0, 0, positions[b, 0]))

    return jax.lax.fori_loop(0, cache.shape[1], row, cache)
