"""Mixed batches: every example of a batch through an adapter of its own, in one program.

A bank is a tree of adapters (and heads) stacked along a new first axis [N + 1]; its last slot is no adapter at all, so that the id -1,
which is the last slot in any indexing, means the base. An example's adapter is gathered by its id, and the model is mapped over the
examples: products with the shared base stay one product for the whole batch, whatever the layers are.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lora_jax.adapter import adapter_of
from lora_jax.errors import TreeError
from lora_jax.leaves import Adapter, adapter_at, as_leaves, is_adapter_leaf, kernel_path, modules, require_fit
from lora_jax.lowrank import pad_rank
from lora_jax.partition import combine
from lora_jax.tree import Params, flat, nested, opened


def stack(base_params: Params, adapters: Sequence[Params]) -> dict:
    """A bank [N + 1, ...] of N adapters for one base; ranks are padded with zeros to the largest, layer by layer.

    Args:
      base_params: the parameters of the base module.
      adapters: trees with adapters, and heads where adapters have their own; one that lacks a layer or a head has the base's.

    Raises:
      TreeError: when an adapter is not of this base, or only some have magnitudes (DoRA).

    >>> base = {"kernel": jnp.zeros((2, 3))}
    >>> one = {"lora_a": jnp.ones((2, 1)), "lora_b": jnp.ones((1, 3)), "lora_scale": jnp.ones(())}
    >>> {name: leaf.shape for name, leaf in stack(base, [one, one]).items()}
    {'lora_a': (3, 2, 1), 'lora_b': (3, 1, 3), 'lora_scale': (3,)}
    """
    base = {path: leaf for path, leaf in flat(base_params).items() if not is_adapter_leaf(path)}
    if not adapters:
        raise TreeError("there are no adapters to stack.")
    # What an adapted tree has of the base itself is no head of its own.
    trees = [{path: leaf for path, leaf in flat(adapter).items() if base.get(path) is not leaf} for adapter in adapters]
    for i, tree in enumerate(trees):
        adapter_of(nested(tree))  # raises where there is none
        _require_of(base, tree, i)
    found: dict[str, Any] = {}
    for module in dict.fromkeys(module for tree in trees for module in modules(tree)):
        layers = [_joined(adapter_at(tree, module)) if module in modules(tree) else None for tree in trees]
        found |= as_leaves(_stacked(module, layers), module)
    heads = dict.fromkeys(path for tree in trees for path in tree if not is_adapter_leaf(path))
    for path in heads:
        found[path] = jnp.stack([*(tree.get(path, base[path]) for tree in trees), base[path]])
    return nested(found)


def _require_of(base: Mapping[str, Any], tree: Mapping[str, Any], position: int) -> None:
    for module in modules(tree):
        path = kernel_path({**base, **tree}, module)
        try:
            require_fit(path, opened(base[path]).shape, adapter_at(tree, module))
        except TreeError as error:
            raise TreeError(f"adapter {position} is of another base: {error}") from error
    strange = [
        path
        for path in tree
        if not is_adapter_leaf(path) and (path not in base or base[path].shape != tree[path].shape)
    ]
    if strange:
        raise TreeError(
            f"adapter {position} is of another base: {strange[0]} {tree[strange[0]].shape} is not in it, or of another shape."
        )


def _joined(adapter: Adapter) -> Adapter:
    """A start joined to its factors."""
    a, b = adapter.factors()
    return adapter._replace(a=a, b=b, start_a=None, start_b=None)


def _stacked(module: str, layers: Sequence[Adapter | None]) -> Adapter:
    """One layer of all adapters, and of none."""
    some = [layer for layer in layers if layer is not None]
    if len({layer.magnitude is None for layer in some}) > 1:
        raise TreeError(
            f"{module.rstrip('/') or 'the root'} has a magnitude (DoRA) in some of the adapters only; they cannot share a bank."
        )
    rank = max(layer.a.shape[-1] for layer in some)
    padded = [
        None if layer is None else layer._replace(**dict(zip("ab", pad_rank(layer.a, layer.b, rank), strict=True)))
        for layer in layers
    ]
    like = next(layer for layer in padded if layer is not None)
    none = like._replace(
        a=jnp.zeros_like(like.a), b=jnp.zeros_like(like.b), scale=jnp.zeros_like(like.scale), magnitude=like.norm
    )
    return jax.tree.map(
        lambda *leaves: jnp.stack(leaves), *(none if layer is None else layer for layer in padded), none
    )


def apply(model: Any, base_params: Params, bank: Params, ids: Any, *args: Any, **kwargs: Any) -> Any:
    """`model.apply`, example i with adapter `ids[i]` of the bank, -1 being the base; gradients reach each adapter from its examples alone.

    A layer that mixes the examples of a batch (batch normalisation in training) sees each on its own.

    Args:
      model: the LoRA wrapper.
      bank: from `stack`, or its leaves under training.
      ids: int [B].
      *args: what `model` takes, every array with a leading axis [B].
      **kwargs: passed on as they are, but `rngs`: every example gets keys of its own.

    Raises:
      TreeError: for an id that is not in the bank (outside jit), or arrays of another length.

    >>> import flax.linen as nn
    >>> from lora_jax import LoRA, LoRAConfig
    >>> model = LoRA(nn.Dense(2, use_bias=False), LoRAConfig(rank=1, targets="*"))
    >>> base = {"kernel": jnp.zeros((1, 2))}
    >>> one = {"lora_a": jnp.ones((1, 1)), "lora_b": jnp.ones((1, 2)), "lora_scale": jnp.ones(())}
    >>> two = {**one, "lora_scale": jnp.asarray(2.0)}
    >>> apply(model, base, stack(base, [one, two]), jnp.array([1, -1, 0]), jnp.ones((3, 1))).tolist()
    [[2.0, 2.0], [0.0, 0.0], [1.0, 1.0]]
    """
    ids = jnp.asarray(ids)
    _require_ids(bank, ids)
    if any(not hasattr(leaf, "shape") or not leaf.shape for leaf in jax.tree.leaves(args)):
        raise TreeError(
            "every positional argument must be an array with an entry for each example; pass settings by keyword."
        )
    sizes = {leaf.shape[0] for leaf in jax.tree.leaves(args)} | {len(ids)}
    if len(sizes) > 1:
        raise TreeError(f"ids and arguments have different numbers of examples: {sorted(sizes)}.")
    base = nested({path: leaf for path, leaf in flat(base_params).items() if path not in flat(bank)})
    rngs = {name: jax.random.split(key, len(ids)) for name, key in (kwargs.pop("rngs", None) or {}).items()}
    own = jax.tree.map(lambda leaf: leaf[ids], bank)
    return jax.vmap(_one(model, base, kwargs))(own, args, rngs)


def _one(model: Any, base: Params, kwargs: Mapping[str, Any]) -> Callable:
    def one(own, args, rngs):
        batch = jax.tree.map(lambda leaf: leaf[None], args)
        given = {"rngs": rngs, **kwargs} if rngs else kwargs
        return jax.tree.map(lambda leaf: leaf[0], model.apply({"params": combine(base, own)}, *batch, **given))

    return one


def _require_ids(bank: Params, ids: jax.Array) -> None:
    count = jax.tree.leaves(bank)[0].shape[0] - 1
    if not jnp.issubdtype(ids.dtype, jnp.integer) or ids.ndim != 1:
        raise TreeError(f"ids is {ids.dtype}{list(ids.shape)}; it must be one integer for each example.")
    if isinstance(ids, jax.core.Tracer):
        return
    strange = [int(i) for i in np.unique(ids) if not -1 <= i < count]
    if strange:
        raise TreeError(f"there is no adapter {strange[0]}; the bank has 0 to {count - 1}, and -1 for the base.")
