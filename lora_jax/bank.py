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
from lora_jax.leaves import (
    Adapter,
    adapter_at,
    as_leaves,
    is_adapter_leaf,
    kernel_path,
    modules,
    require_fit,
    require_whole,
)  # fmt: skip
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
    strange = [path for path in tree if not is_adapter_leaf(path) and not _is_of(base, path, tree[path])]
    if strange:
        raise TreeError(
            f"adapter {position} is of another base: {strange[0]} {np.shape(opened(tree[strange[0]]))} is not in it, or of another shape."
        )
    try:
        require_whole(tree)
        for module in modules(tree):
            path = kernel_path(base, module)
            require_fit(path, opened(base[path]).shape, adapter_at(tree, module), module)
    except TreeError as error:
        raise TreeError(f"adapter {position} is of another base: {error}") from error


def _is_of(base: Mapping[str, Any], path: str, leaf: Any) -> bool:
    return path in base and np.shape(opened(base[path])) == np.shape(opened(leaf))


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


def apply(
    model: Any,
    base_params: Params,
    bank: Params,
    ids: Any,
    *args: Any,
    collections: Mapping[str, Any] | None = None,
    rngs: Any = None,
    **kwargs: Any,
) -> Any:
    """`model.apply`, example i with adapter `ids[i]` of the bank, -1 being the base; gradients reach each adapter from its examples alone.

    A layer that mixes the examples of a batch sees each on its own.

    Args:
      model: the LoRA wrapper.
      base_params: the base; adapters in it are left out.
      bank: from `stack`, or its leaves under training.
      ids: int [B].
      *args: what `model` takes, every array with a leading axis [B].
      collections: what else the model reads, {"batch_stats": ...} say; the same for all examples.
      rngs: {name: key}; every example gets keys of its own.
      **kwargs: what `model` takes by keyword. Arrays have a leading axis [B] too (a mask say); what is no array, or a number, is passed on
        as it is.

    Raises:
      TreeError: for an id that is not in the bank (outside jit), arrays of another length, or a bank that is none.

    >>> import flax.linen as nn
    >>> from lora_jax import LoRA, LoRAConfig
    >>> model = LoRA(nn.Dense(2, use_bias=False), LoRAConfig(rank=1, targets="*"))
    >>> base = {"kernel": jnp.zeros((1, 2))}
    >>> one = {"lora_a": jnp.ones((1, 1)), "lora_b": jnp.ones((1, 2)), "lora_scale": jnp.ones(())}
    >>> two = {**one, "lora_scale": jnp.asarray(2.0)}
    >>> apply(model, base, stack(base, [one, two]), jnp.array([1, -1, 0]), jnp.ones((3, 1))).tolist()
    [[2.0, 2.0], [0.0, 0.0], [1.0, 1.0]]
    """
    ids, banked = jnp.asarray(ids), flat(bank)
    _require_ids(banked, ids)
    if any(not _is_array(leaf) for leaf in jax.tree.leaves(args)):
        raise TreeError(
            "every positional argument must be an array with an entry for each example; pass settings by keyword."
        )
    sizes = {leaf.shape[0] for leaf in jax.tree.leaves(args)} | {len(ids)}
    if len(sizes) > 1:
        raise TreeError(f"ids and arguments have different numbers of examples: {sorted(sizes)}.")
    arrays, joined = _by_example(kwargs, len(ids))
    own_base = {
        path: leaf for path, leaf in flat(base_params).items() if path not in banked and not is_adapter_leaf(path)
    }
    variables = {**(collections or {}), "params": nested(own_base)}
    own = jax.tree.map(lambda leaf: leaf[ids], bank)
    return jax.vmap(_one(model, variables, joined))(own, args, arrays, _keys(rngs, len(ids)))


def _one(model: Any, variables: Mapping[str, Any], joined: Callable) -> Callable:
    def one(own, args, arrays, rngs):
        args, arrays = jax.tree.map(lambda leaf: leaf[None], (args, arrays))
        given = {**variables, "params": combine(variables["params"], own)}
        y = model.apply(given, *args, **joined(arrays), **({"rngs": rngs} if rngs else {}))
        return jax.tree.map(lambda leaf: leaf[0], y)

    return one


def _is_array(leaf: Any) -> bool:
    """Whether a leaf has axes; a number is a setting."""
    return bool(getattr(leaf, "shape", ()))


def _by_example(kwargs: Mapping[str, Any], count: int) -> tuple[list, Callable]:
    """`(arrays, joined)`: the arrays among keyword arguments, None in place of others, and `joined(arrays)`, the keyword arguments again."""
    if kwargs.get("mutable", False) is not False:
        raise TreeError("every example would change the model's state on its own; call bank.apply without mutable.")
    leaves, tree = jax.tree_util.tree_flatten_with_path(dict(kwargs))
    for path, leaf in leaves:
        if _is_array(leaf) and leaf.shape[0] != count:
            raise TreeError(
                f"{jax.tree_util.keystr(path, simple=True, separator='/')} is an array {leaf.shape} and there are {count} examples; arrays by "
                "keyword have an entry for each, too: repeat it, or close over what they share in a function as method=."
            )

    def joined(arrays: list) -> dict[str, Any]:
        pairs = zip(leaves, arrays, strict=True)
        return tree.unflatten([leaf if array is None else array for (_, leaf), array in pairs])

    return [leaf if _is_array(leaf) else None for _, leaf in leaves], joined


def _size(leaf: Any) -> int | None:
    """The entries along the first axis; None where there is no axis."""
    return leaf.shape[0] if _is_array(leaf) else None


def _keys(rngs: Any, count: int) -> dict[str, jax.Array]:
    """Keys for each example."""
    if rngs is not None and not isinstance(rngs, Mapping):
        raise TreeError(f"rngs is a {type(rngs).__name__}; it must name its streams, as rngs={{'dropout': key}}.")
    return {name: jax.random.split(key, count) for name, key in (rngs or {}).items()}


def _require_ids(bank: Mapping[str, Any], ids: jax.Array) -> None:
    sizes = {_size(leaf) for leaf in bank.values()}
    if len(sizes) != 1 or None in sizes:
        raise TreeError(
            f"the bank {'is empty' if not bank else 'has leaves without one first axis for all'}; make it by lora_jax.bank.stack."
        )
    count = sizes.pop() - 1
    if not jnp.issubdtype(ids.dtype, jnp.integer) or ids.ndim != 1:
        raise TreeError(f"ids is {ids.dtype}{list(ids.shape)}; it must be one integer for each example.")
    if isinstance(ids, jax.core.Tracer):
        return
    strange = [int(i) for i in np.unique(ids) if not -1 <= i < count]
    if strange:
        raise TreeError(f"there is no adapter {strange[0]}; the bank has 0 to {count - 1}, and -1 for the base.")
