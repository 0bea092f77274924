"""Causal attention with grouped key/value heads: within packed documents, and over a cache.

Letters: B batch, T tokens, H query heads, G key/value heads (H a multiple of G), K head width, S cache slots.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

QUERIES = 64  # of a row, at a time, on a CPU
WIDEST = 128  # head that cuDNN's fused attention takes on every GPU that has it


@dataclasses.dataclass(frozen=True)
class Rule:
    """How scores become weights. `scale` multiplies them; `soft_cap` c makes them c tanh(score / c) (Gemma 2, arXiv:2408.00118, section 2)."""

    scale: float
    soft_cap: float | None = None


def on_accelerator() -> bool:
    """Whether JAX computes on another device than a CPU."""
    return jax.default_backend() != "cpu"


def positions_within(segments: jax.Array) -> jax.Array:
    """int32 [B, T]: each token's place in its own document; documents are runs of one number in `segments` [B, T].

    >>> positions_within(jnp.array([[1, 1, 2, 2, 2, 0]])).tolist()
    [[0, 1, 0, 1, 2, 0]]
    """
    place = jnp.arange(segments.shape[1])[None]
    is_first = jnp.pad(segments[:, 1:] != segments[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    return (place - jax.lax.cummax(jnp.where(is_first, place, 0), axis=1)).astype(jnp.int32)


def within_documents(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segments: jax.Array | None,
    rule: Rule | None = None,
    window: int | jax.Array | None = None,
) -> jax.Array:
    """Each token of q [B, T, H, K] attends to the tokens before it, and itself, of its own document; [B, T, H, K].

    Args:
      k, v: [B, T, G, K].
      segments: int32 [B, T], the document of each token; None where a row is one.
      rule: by default scores are divided by sqrt(K).
      window: a token sees so many at most, itself among them (Beltagy et al. 2020, arXiv:2004.05150, section 3.1); an int32 [] may be traced.
    """
    rule = rule or Rule(q.shape[-1] ** -0.5)
    if not on_accelerator():
        # One row at a time, a few queries at a time: the scores then stay in the cache, those of later keys are never
        # computed, and they are computed again in the backward pass rather than kept (measured in docs/decisions/performance.md).
        row = jax.checkpoint(functools.partial(_attend_row, rule=rule, queries=QUERIES))
        return jax.lax.map(lambda row_of: row(*row_of, window=window), (q, k, v, segments))
    if rule.soft_cap is None:
        return _by_jax(q, k, v, segments, rule, window)
    row = functools.partial(_attend_row, rule=rule, window=window, queries=q.shape[1])
    return jax.vmap(row, in_axes=(0, 0, 0, None if segments is None else 0))(q, k, v, segments)


def _by_jax(q, k, v, segments, rule: Rule, window):
    """JAX's own attention: cuDNN's fused one where it applies, else XLA's."""
    place, mask = jnp.arange(q.shape[1]), None
    if segments is not None:
        mask = segments[:, None, :, None] == segments[:, None, None, :]
    if window is not None and not isinstance(window, int):
        near = (place[:, None] - place[None, :] < window)[None, None]
        mask = near if mask is None else mask & near
    return jax.nn.dot_product_attention(
        q, k, v, mask=mask, scale=rule.scale, is_causal=True,
        local_window_size=(window - 1, 0) if isinstance(window, int) else None,
        implementation="cudnn" if is_fused(q, k, has_mask=mask is not None) else "xla",
    )  # fmt: skip


def is_fused(q: jax.Array, k: jax.Array, *, has_mask: bool) -> bool:
    """Whether cuDNN's fused attention takes q [B, T, H, K] and k [B, S, G, K]: on an NVIDIA GPU of compute capability 8 or more, in 16 bits, and
    under a mask of even lengths alone, since it has no gradient for others.
    """
    device = jax.devices()[0]
    if device.platform != "gpu" or q.dtype not in (jnp.bfloat16, jnp.float16):
        return False
    if has_mask and (q.shape[1] % 2 or k.shape[1] % 2):
        return False
    capability = str(getattr(device, "compute_capability", "0")).split(".")[0]
    return capability.isdigit() and int(capability) >= 8 and q.shape[-1] % 8 == 0 and q.shape[-1] <= WIDEST


def _attend_row(q, k, v, segments, *, rule: Rule, window, queries: int):
    """One row: q [T, H, K], k and v [T, G, K], segments [T] or None; so many queries at a time, each against the keys up to the last."""
    t = q.shape[0]
    place = jnp.arange(t)

    def attend(start: int, stop: int):
        first = (
            max(0, start + 1 - window) if isinstance(window, int) else 0
        )  # keys before are out of every query's window
        seen = place[start:stop, None] >= place[None, first:stop]
        if segments is not None:
            seen &= segments[start:stop, None] == segments[None, first:stop]
        if window is not None:
            seen &= place[start:stop, None] - place[None, first:stop] < window
        return _softmax_attention(q[start:stop], k[first:stop], v[first:stop], seen, rule)

    return jnp.concatenate([attend(start, min(start + queries, t)) for start in range(0, t, queries)])


def over_cache(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    positions: jax.Array,
    rule: Rule | None = None,
    window: int | jax.Array | None = None,
) -> jax.Array:
    """New tokens attend to what a cache has of earlier positions, and to each other up to their own; [B, T, H, K].

    The cache is read only: what is new is put there afterwards, for all layers at once.

    Args:
      q: [B, T, H, K]; k, v: [B, T, G, K].
      keys, values: [B, G, K, S], the token of position p in slot p.
      positions: int32 [B, T], one after the other in each row.
      rule, window: as for `within_documents`.
    """
    row = functools.partial(_over_cache_row, rule=rule or Rule(q.shape[-1] ** -0.5), window=window)
    return jax.vmap(row)(q, k, v, keys, values, positions)


def _over_cache_row(q, k, v, keys, values, positions, *, rule: Rule, window):
    slots = keys.shape[-1]
    rows = _rows(q, k.shape[1], rule)
    scores = jnp.concatenate([jnp.einsum("gmk,gks->gms", rows, keys), jnp.einsum("gmk,sgk->gms", rows, k)], axis=-1)
    earlier = jnp.broadcast_to(jnp.arange(slots) < positions[0], (len(q), slots))
    now = positions[None, :] <= positions[:, None]
    if window is not None:
        earlier &= positions[:, None] - jnp.arange(slots)[None] < window
        now &= positions[:, None] - positions[None, :] < window
    weights = _weights(scores, jnp.concatenate([earlier, now], axis=-1), rule)
    cached = jnp.einsum("gms,gks->gmk", weights[..., :slots], values)
    return _heads(cached + jnp.einsum("gms,sgk->gmk", weights[..., slots:], v), q.shape)


def _softmax_attention(q, k, v, seen, rule: Rule):
    """[T, H, K] from q [T, H, K], k and v [S, G, K] and seen bool [T, S]."""
    weights = _weights(jnp.einsum("gmk,sgk->gms", _rows(q, k.shape[1], rule), k), seen, rule)
    return _heads(jnp.einsum("gms,sgk->gmk", weights, v), q.shape)


def _rows(q, groups: int, rule: Rule):
    """q [T, H, K], scaled, as [G, T * H / G, K]: the heads of a group read the same keys, so they are rows of one product."""
    t, h, width = q.shape
    rows = q.reshape(t, groups, h // groups, width).swapaxes(0, 1).reshape(groups, -1, width)
    return rows * jnp.asarray(rule.scale, q.dtype)


def _heads(context, shape):
    """The inverse of `_rows`, but the scale."""
    t, _, width = shape
    return context.reshape(len(context), t, -1, width).swapaxes(0, 1).reshape(shape)


def _weights(scores, seen, rule: Rule):
    """Softmax in float32 of scores [G, T * H / G, S] over what each of T tokens sees, bool [T, S]."""
    of_token = scores.astype(jnp.float32).reshape(len(scores), len(seen), -1, scores.shape[-1])
    if rule.soft_cap is not None:
        of_token = rule.soft_cap * jnp.tanh(of_token / rule.soft_cap)
    masked = jnp.where(seen[None, :, None], of_token, jnp.finfo(jnp.float32).min)
    return jax.nn.softmax(masked, axis=-1).astype(scores.dtype).reshape(scores.shape)


def put(cache: jax.Array, new: jax.Array, positions: jax.Array) -> jax.Array:
    """`cache` [L, B, G, K, S] with `new` [L, B, T, G, K] from slot `positions[:, 0]` on; all must fit into S.

    Row by row: as one scatter it takes a third of a generated token's time on a CPU (docs/decisions/performance.md).
    """
    new = jnp.moveaxis(new, 2, -1)  # [L, B, G, K, T]

    def row(b, cache):
        of_row = jax.lax.dynamic_slice_in_dim(new, b, 1, axis=1)
        return jax.lax.dynamic_update_slice(cache, of_row, (0, b, 0, 0, positions[b, 0]))

    return jax.lax.fori_loop(0, cache.shape[1], row, cache)
