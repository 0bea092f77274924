"""Algebra of adapters: sums, means, concatenation, recompression, TIES and DARE, as pure functions on adapter trees.

An adapter stands for its updates `scale * a @ b`, and every function speaks of these: any ranks, scales and scaling rules mix. What an
adapter has from a start (PiSSA, OLoRA) is part of its update, so a result is always plain LoRA. DoRA is refused: magnitude times
direction is no sum. Of a whole adapted tree the adapter is taken, and not its heads and biases, those that trained included; an adapter
that comes with heads or biases and without its base is refused: no function here gives a sum of heads.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from lora_jax import decompositions
from lora_jax.adapter import adapter_alone
from lora_jax.errors import TreeError
from lora_jax.intake import is_finite, require_key, tree_of
from lora_jax.leaves import Adapter, adapter_at, as_leaves, modules
from lora_jax.lowrank import delta
from lora_jax.scalars import integer, number
from lora_jax.tree import Params, flat, nested


def combine(adapters: Sequence[Params], weights: Sequence[int | float]) -> dict:
    """The adapter whose updates are the weighted sums of theirs, exactly: factors are concatenated, so ranks add up.

    A layer that only some adapters have counts as zero in the others. Weights may be negative. `combine([x], [1])` is x.

    Args:
      adapters: adapters, or whole adapted trees, of which everything else is left out (heads and biases that trained, too).
      weights: as many numbers.

    Raises:
      TreeError: for adapters of different layers' shapes, DoRA, an adapter that comes with heads or biases and without its base, or a
        number of weights that differs.

    >>> one = {"head": {"lora_a": jnp.ones((2, 1)), "lora_b": jnp.ones((1, 2)), "lora_scale": jnp.asarray(2.0)}}
    >>> delta(*(combine([one, one], [1, -0.5])["head"][name] for name in ("lora_a", "lora_b", "lora_scale"))).tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """
    return _each_layer(adapters, weights, _concatenated)


def add(*adapters: Params) -> dict:
    """The sum of the updates; `combine` with weights of 1.

    >>> one = {"lora_a": jnp.ones((2, 1)), "lora_b": jnp.ones((1, 2)), "lora_scale": jnp.asarray(2.0)}
    >>> delta(*add(one, one).values()).tolist()
    [[4.0, 4.0], [4.0, 4.0]]
    """
    return combine(adapters, [1.0] * len(adapters))


def average(*adapters: Params) -> dict:
    """The mean of the updates, which is not the update of the mean factors.

    >>> one = {"lora_a": jnp.ones((2, 1)), "lora_b": jnp.ones((1, 2)), "lora_scale": jnp.asarray(2.0)}
    >>> zero = {**one, "lora_b": jnp.zeros((1, 2))}
    >>> delta(*average(one, zero).values()).tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """
    return combine(adapters, [1 / max(1, len(adapters))] * len(adapters))


def interpolate(one: Params, other: Params, t: int | float) -> dict:
    """`(1 - t)` times the updates of the one plus `t` times those of the other.

    >>> one = {"lora_a": jnp.ones((2, 1)), "lora_b": jnp.ones((1, 2)), "lora_scale": jnp.asarray(2.0)}
    >>> zero = {**one, "lora_b": jnp.zeros((1, 2))}
    >>> delta(*interpolate(one, zero, 0.25).values()).tolist()
    [[1.5, 1.5], [1.5, 1.5]]
    """
    return combine([one, other], [1 - t, t])


def recompress(adapter: Params, rank: Any) -> dict:
    """The best approximation of every update with this rank, or its own if that is less; scale 1, the singular values shared evenly.

    What is lost is the tail of the singular values (`lora_jax.spectrum`): Eckart and Young 1936. By QR decompositions of the factors, so
    no weight-shaped array is made.

    Raises:
      TreeError: for a rank below 1, or DoRA.

    >>> wide = {"lora_a": jnp.eye(3), "lora_b": jnp.diag(jnp.array([3.0, 2.0, 1.0])), "lora_scale": jnp.ones(())}
    >>> narrow = recompress(wide, 2)
    >>> narrow["lora_a"].shape, jnp.abs(delta(*narrow.values())).round().tolist()
    ((3, 2), [[3.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 0.0]])
    """
    rank = _rank(rank)
    return _each_layer([adapter], [1.0], lambda layers, weights: _truncated(layers[0], rank))


def ties(adapters: Sequence[Params], weights: Sequence[int | float], *, density: int | float, rank: Any) -> dict:
    """TIES merging of the updates (Yadav et al. 2023, arXiv:2306.01708, section 4), then the best adapter of this rank.

    Each weighted update keeps its largest entries; of every entry the sign with the larger total wins; the entries of that sign are averaged.
    It works on the products a @ b: signs of factors mean nothing.

    Args:
      density: in (0, 1], the share of entries that each update keeps.

    Raises:
      TreeError: as `combine`, and for a density outside (0, 1].

    >>> one = {"lora_a": jnp.ones((1, 1)), "lora_b": jnp.array([[4.0, 3.0, 0.1]]), "lora_scale": jnp.ones(())}
    >>> other = {**one, "lora_b": jnp.array([[2.0, -5.0, 0.2]])}
    >>> delta(*ties([one, other], [1, 1], density=2 / 3, rank=1).values()).round().astype(int).tolist()
    [[3, -5, 0]]
    """
    density, rank = _density(density), _rank(rank)

    def merged(layers, weights):
        return _consensus(jnp.stack([_trimmed(update, density) for update in _updates(layers, weights)]))

    return _each_layer(adapters, weights, lambda layers, weights: _compressed(merged(layers, weights), rank))


def dare(
    key: jax.Array, adapters: Sequence[Params], weights: Sequence[int | float], *, density: int | float, rank: Any
) -> dict:
    """DARE (Yu et al. 2023, arXiv:2311.03099, section 3.1): entries of the updates are dropped at random and the rest rescaled by 1 / density,
    which keeps every update's mean; then summed with the weights, then the best adapter of this rank.

    Raises:
      TreeError: as `ties`.

    >>> one = {"lora_a": jnp.ones((1, 1)), "lora_b": jnp.ones((1, 1000)), "lora_scale": jnp.ones(())}
    >>> update = delta(*dare(jax.random.key(0), [one], [1], density=0.5, rank=1).values())
    >>> sorted(set(jnp.abs(update).round().ravel().tolist())), bool(abs(update.mean() - 1) < 0.1)
    ([0.0, 2.0], True)
    """
    density, rank = _density(density), _rank(rank)
    require_key(key, "dare")
    keys = iter(
        jax.random.split(key, 1 + len(adapters) * sum(len(modules(tree_of(a, "an adapter"))) for a in adapters))
    )

    def dropped(update):
        return jnp.where(jax.random.bernoulli(next(keys), density, update.shape), update / density, 0)

    def merged(layers, weights):
        return functools.reduce(jnp.add, map(dropped, _updates(layers, weights)))

    return _each_layer(adapters, weights, lambda layers, weights: _compressed(merged(layers, weights), rank))


def _each_layer(adapters: Sequence[Params], weights: Sequence[int | float], combined: Callable) -> dict:
    """`combined(layers, weights)` of every layer that any of the adapters has, with those that have it."""
    if not adapters or len(adapters) != len(weights):
        raise TreeError(
            f"there are {len(adapters)} adapters and {len(weights)} weights; give one weight for each of at least one adapter."
        )
    for k, weight in enumerate(weights):
        if not isinstance(weight, jax.core.Tracer) and number(weight) is None:
            raise TreeError(f"weights[{k}] is {weight!r}; a weight is a finite number.")
    trees = [flat(adapter_alone(adapter, f"adapters[{i}]")) for i, adapter in enumerate(adapters)]
    for i, tree in enumerate(trees):
        _require_finite(f"adapters[{i}]", tree)
    found = {}
    for module in dict.fromkeys(module for tree in trees for module in modules(tree)):
        pairs = [
            (_as_lora(module, adapter_at(t, module)), w)
            for t, w in zip(trees, weights, strict=True)
            if module in modules(t)
        ]
        layers, own = [layer for layer, _ in pairs], [weight for _, weight in pairs]
        _require_alike(module, layers)
        found |= as_leaves(combined(layers, own), module)
    return nested(found)


def _as_lora(module: str, adapter: Adapter) -> Adapter:
    """As LoRA without a start, which any adapter but DoRA is; float32 at least."""
    if adapter.magnitude is not None:
        raise TreeError(
            f"{module.rstrip('/') or 'the root'} is DoRA: magnitude times direction has no sum; merge the adapters instead."
        )
    a, b = (jnp.asarray(factor, jnp.promote_types(jnp.float32, factor.dtype)) for factor in adapter.factors())
    return Adapter(a, b, jnp.asarray(adapter.scale, a.dtype))


def _require_alike(module: str, layers: Sequence[Adapter]) -> None:
    sizes = {(*layer.a.shape[:-1], layer.b.shape[-1]) for layer in layers}
    if len(sizes) > 1:
        where = module.rstrip("/") or "the root"
        raise TreeError(
            f"{where} has other sizes in some of the adapters, {sorted(sizes)}: they are of different bases."
        )


def _concatenated(layers: Sequence[Adapter], weights: Sequence[int | float]) -> Adapter:
    """[a_1 | a_2 ...] and [w_1 s_1 / s b_1; w_2 s_2 / s b_2; ...] at the scale s of the first."""
    first = layers[0].scale
    scale = jnp.where(first == 0, 1, first)  # an adapter that is switched off has a scale of 0
    a = jnp.concatenate([layer.a for layer in layers], axis=-1)
    b = jnp.concatenate(
        [(w * layer.scale / scale)[..., None, None] * layer.b for layer, w in zip(layers, weights, strict=True)],
        axis=-2,
    )
    return Adapter(a, b, scale)


def _truncated(layer: Adapter, rank: Any) -> Adapter:
    """By the singular value decomposition of T S^T, where a = Q T and b^T = P S."""
    q, t = decompositions.qr(layer.a)
    p, s = decompositions.qr(layer.b.mT)
    u, values, v = decompositions.svd(layer.scale[..., None, None] * (t @ s.mT))
    left, right = decompositions.halves(u[..., :rank], values[..., :rank], v[..., :rank, :])
    return Adapter(q @ left, right @ p.mT, jnp.ones_like(layer.scale))


def _compressed(update: jax.Array, rank: Any) -> Adapter:
    """The best adapter of this rank for an update [*L, D, K]."""
    u, values, v = decompositions.svd(update)
    a, b = decompositions.halves(u[..., :rank], values[..., :rank], v[..., :rank, :])
    return Adapter(a, b, jnp.ones(update.shape[:-2]))


def _updates(layers: Sequence[Adapter], weights: Sequence[int | float]) -> list[jax.Array]:
    return [weight * delta(layer.a, layer.b, layer.scale) for layer, weight in zip(layers, weights, strict=True)]


def _trimmed(update: jax.Array, density: int | float) -> jax.Array:
    """The largest `density` of each layer's entries; zero elsewhere."""
    entries = jnp.abs(update).reshape(*update.shape[:-2], -1)
    kept = max(1, round(density * entries.shape[-1]))
    least = jnp.sort(entries, axis=-1)[..., -kept]
    return jnp.where(jnp.abs(update) >= least[..., None, None], update, 0)


def _consensus(updates: jax.Array) -> jax.Array:
    """The mean of the entries whose sign is that of their sum; [N, *L, D, K] -> [*L, D, K]."""
    elected = jnp.sign(updates.sum(axis=0))
    agrees = (jnp.sign(updates) == elected[None]) & (updates != 0)
    return jnp.where(agrees, updates, 0).sum(axis=0) / jnp.maximum(agrees.sum(axis=0), 1)


def _rank(value: Any) -> int:
    rank = integer(value)
    if rank is None or rank < 1:
        raise TreeError(f"rank is {value!r}; it must be an integer of at least 1.")
    return rank


def _density(value: Any) -> float:
    density = number(value)
    if density is None or not 0 < density <= 1:
        raise TreeError(f"density is {value!r}; it must be a share in (0, 1].")
    return float(density)


def _require_finite(name: str, leaves: Mapping[str, Any]) -> None:
    """Raises TreeError for an adapter that diverged: it would make the others' sum NaN. What is traced is not looked at."""
    for path, leaf in leaves.items():
        if not is_finite(leaf):
            raise TreeError(f"{name} has entries that are infinite or NaN at {path}: it diverged; leave it out.")
