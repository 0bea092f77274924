"""Adapters of one base stacked into a bank, ranks padded, free slots left."""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lora_jax.adapter import adapter_of
from lora_jax.errors import TreeError
from lora_jax.intake import adapted, described, tree_of
from lora_jax.leaves import (
    Adapter,
    adapter_at,
    as_leaves,
    is_adapter_leaf,
    kernel_path,
    kernel_paths,
    modules,
    require_fit,
)
from lora_jax.lowrank import pad_rank
from lora_jax.norms import require_norms
from lora_jax.scalars import integer
from lora_jax.tree import Params, flat, nested, opened

Adapters = Sequence[Params] | Mapping[str, Params]

MOST = 1_000_000  # slots, or rank


def stack(base_params: Params, adapters: Adapters, *, capacity: int | None = None, rank: int | None = None) -> dict:
    """A bank [N + 1, ...] of adapters for one base; ranks are padded with zeros to the largest, layer by layer.

    Args:
      base_params: the parameters of the base module.
      adapters: trees with adapters, and heads where adapters have their own; one that lacks a layer or a head has the base's. By name too,
        {"french": tree, ...}, in whose order they lie: `Slots` of it tells each name's slot.
      capacity: N, the number of slots; those that are left are free, that is, the base. None: as many as there are adapters.
      rank: of every layer; None: the largest among the adapters. `put` takes adapters up to it.

    Raises:
      TreeError: when an adapter is not of this base, or only some have magnitudes (DoRA), or there is no room for them.

    >>> base = {"kernel": jnp.zeros((2, 3))}
    >>> one = {"lora_a": jnp.ones((2, 1)), "lora_b": jnp.ones((1, 3)), "lora_scale": jnp.ones(())}
    >>> {name: leaf.shape for name, leaf in stack(base, [one, one]).items()}
    {'lora_a': (3, 2, 1), 'lora_b': (3, 1, 3), 'lora_scale': (3,)}
    >>> stack(base, {"french": one}, capacity=7, rank=4)["lora_a"].shape
    (8, 2, 4)
    """
    base = base_leaves(base_params)
    trees = {f"adapter {name!r}": own_leaves(f"adapter {name!r}", tree, base) for name, tree in _named(adapters, base)}
    free = _count("capacity", capacity, len(trees)) - len(trees)
    found: dict[str, Any] = {}
    for module in dict.fromkeys(module for tree in trees.values() for module in modules(tree)):
        layers = [joined(adapter_at(tree, module)) if module in modules(tree) else None for tree in trees.values()]
        found |= as_leaves(_stacked(module, layers, rank, free), module)
    heads = dict.fromkeys(path for tree in trees.values() for path in tree if not is_adapter_leaf(path))
    for path in heads:
        own = [plain(tree.get(path, base[path])) for tree in trees.values()]
        found[path] = _strong(jnp.stack([*own, *[plain(base[path])] * (free + 1)]))
    return nested(found)


def base_leaves(base_params: Params) -> dict[str, Any]:
    """The leaves of the base alone, by path; adapters in it are left out."""
    leaves = tree_of(base_params, "bank: base_params")
    return {path: leaf for path, leaf in leaves.items() if not is_adapter_leaf(path)}


def plain(leaf: Any) -> Any:
    """An array out of the box that Flax keeps it in."""
    return nn.meta.unbox(leaf)


def _named(adapters: Any, base: Mapping[str, Any]) -> list[tuple[Any, Params]]:
    """(name or position, tree) of each."""
    if not isinstance(adapters, (Mapping, Sequence)) or isinstance(adapters, str):
        raise TreeError(
            f"bank.stack: the adapters are {described(adapters)}; give a list of trees, or a dict of them by name."
        )
    if not adapters:
        raise TreeError(
            "there are no adapters to stack; for a bank that begins empty stack a fresh one, lora_jax.adapt(...), and remove it."
        )
    if isinstance(adapters, Mapping):
        _require_many(adapters, base)
        return list(adapters.items())
    return list(enumerate(adapters))


def _require_many(adapters: Mapping[str, Params], base: Mapping[str, Any]) -> None:
    """Raises TreeError where a dict of adapters by name is the tree of one."""
    places = modules(flat(adapters))
    if places and all(any(path in base for path in kernel_paths(place)) for place in places):
        raise TreeError(
            "bank.stack: the adapters are one adapter's own tree; give a list of trees, [tree], or a dict of them by name."
        )


def _count(name: str, value: Any, least: int) -> int:
    count = least if value is None else integer(value)
    if count is None or not least <= count <= MOST:
        raise TreeError(
            f"{name} is {value!r}; it must be an integer of at least {least}, which the adapters need, and at most {MOST:,}."
        )
    return count


def own_leaves(label: str, tree: Params, base: Mapping[str, Any]) -> dict[str, Any]:
    """An adapter's own leaves, its heads among them; what an adapted tree has of the base itself is no head of its own.

    Raises:
      TreeError: where it is none, or not of this base; it begins with `label`.
    """
    leaves = tree_of(tree, label)
    adapter_of(tree, label)  # raises where there is none
    own = {path: leaf for path, leaf in leaves.items() if base.get(path) is not leaf}
    strange = [path for path in own if not is_adapter_leaf(path) and not _is_of(base, path, own[path])]
    if strange:
        raise TreeError(
            f"{label} is of another base: {strange[0]} {np.shape(opened(own[strange[0]]))} is not in it, or of another shape."
        )
    try:
        adapted(nested(own), label)
        for module in modules(own):
            path = kernel_path(base, module)
            require_fit(path, opened(base[path]).shape, adapter_at(own, module), module)
        require_norms({**base, **own}, label)
    except TreeError as error:
        raise TreeError(f"{label} is of another base: {error}") from error
    return own


def _is_of(base: Mapping[str, Any], path: str, leaf: Any) -> bool:
    return path in base and np.shape(opened(base[path])) == np.shape(opened(leaf))


def joined(adapter: Adapter) -> Adapter:
    """An adapter with its start (PiSSA, OLoRA) joined to its factors.

    >>> one = jnp.ones((1, 1))
    >>> joined(Adapter(one, one, jnp.ones(()), one, one)).a.shape
    (1, 2)
    """
    a, b = adapter.factors()
    return adapter._replace(a=a, b=b, start_a=None, start_b=None)


def _stacked(module: str, layers: Sequence[Adapter | None], rank: int | None, free: int) -> Adapter:
    """One layer of all adapters, of free slots, and of none."""
    some = [layer for layer in layers if layer is not None]
    if len({layer.magnitude is None for layer in some}) > 1:
        raise TreeError(
            f"{module.rstrip('/') or 'the root'} has a magnitude (DoRA) in some of the adapters only; they cannot share a bank."
        )
    widest = max(layer.a.shape[-1] for layer in some)
    rank = widest if rank is None else _count("rank", rank, widest)
    layers = [None if layer is None else padded(layer, rank) for layer in layers]
    none = _none(next(layer for layer in layers if layer is not None))
    every = [*(none if layer is None else layer for layer in layers), *[none] * (free + 1)]
    return jax.tree.map(lambda *leaves: _strong(jnp.stack(leaves)), *every)


def padded(layer: Adapter, rank: int) -> Adapter:
    """A layer with zeros up to a rank."""
    a, b = pad_rank(jnp.asarray(layer.a), jnp.asarray(layer.b), rank)
    return layer._replace(a=a, b=b)


def _none(like: Adapter) -> Adapter:
    """No adapter, in the shapes of one."""
    return like._replace(
        a=jnp.zeros_like(like.a), b=jnp.zeros_like(like.b), scale=jnp.zeros_like(like.scale), magnitude=like.norm
    )


def _strong(leaf: jax.Array) -> jax.Array:
    """Of a dtype that is its own and not a number's: a program sees no difference when a slot changes."""
    return jnp.asarray(leaf, leaf.dtype)
