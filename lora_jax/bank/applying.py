"""`model.apply` with an adapter of its own for every example of a batch."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lora_jax.bank.slots import settled, slots_of
from lora_jax.errors import TreeError
from lora_jax.intake import collections_given, described, tree_of
from lora_jax.leaves import is_adapter_leaf
from lora_jax.partition import combine
from lora_jax.tree import Params, nested


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
      ids: int [B]. Under jit, where it cannot be refused, an id that is not in the bank means the base too.
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
    >>> from lora_jax.bank.stacking import stack
    >>> apply(model, base, stack(base, [one, two]), jnp.array([1, -1, 0]), jnp.ones((3, 1))).tolist()
    [[2.0, 2.0], [0.0, 0.0], [1.0, 1.0]]
    """
    banked, count = slots_of(bank)
    ids = _known(ids, count)
    if any(not _is_array(leaf) for leaf in jax.tree.leaves(args)):
        raise TreeError(
            "every positional argument must be an array with an entry for each example; pass settings by keyword."
        )
    sizes = {leaf.shape[0] for leaf in jax.tree.leaves(args)} | {len(ids)}
    if len(sizes) > 1:
        raise TreeError(f"ids and arguments have different numbers of examples: {sorted(sizes)}.")
    arrays, joined = _by_example(kwargs, len(ids))
    own_base = {
        path: leaf
        for path, leaf in tree_of(base_params, "bank.apply: base_params").items()
        if path not in banked and not is_adapter_leaf(path)
    }
    variables = {**(collections or {}), "params": nested(own_base)}
    own = jax.tree.map(lambda leaf: leaf[ids], bank)
    with collections_given("bank.apply"):
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
                f"{jax.tree_util.keystr(path, simple=True, separator='/')} is an array {leaf.shape} and there are {count} examples; an array "
                "passed by keyword needs an entry for each: repeat it, or pass as method= a function that closes over what they share."
            )

    def joined(arrays: list) -> dict[str, Any]:
        pairs = zip(leaves, arrays, strict=True)
        return tree.unflatten([leaf if array is None else array for (_, leaf), array in pairs])

    return [leaf if _is_array(leaf) else None for _, leaf in leaves], joined


def _keys(rngs: Any, count: int) -> dict[str, jax.Array]:
    """Keys for each example."""
    if rngs is not None and not isinstance(rngs, Mapping):
        raise TreeError(f"rngs is a {type(rngs).__name__}; it must name its streams, as rngs={{'dropout': key}}.")
    return {name: jax.random.split(key, count) for name, key in (rngs or {}).items()}


def _known(ids: Any, count: int) -> jax.Array:
    """The ids as indices of slots, the base's being `count`. Raises TreeError for one that is not in the bank, outside jit."""
    ids = ids if isinstance(ids, jax.core.Tracer) else np.asarray(ids)
    if ids.dtype == object:
        raise TreeError(f"ids is {described(ids.tolist())}; it must be one integer for each example.")
    if not jnp.issubdtype(ids.dtype, jnp.integer) or ids.ndim != 1:
        raise TreeError(f"ids is {ids.dtype}{list(ids.shape)}; it must be one integer for each example.")
    if isinstance(ids, jax.core.Tracer):
        return settled(ids, count, count)
    strange = [int(i) for i in np.unique(ids) if not -1 <= i < count]
    if strange:
        raise TreeError(f"there is no adapter {strange[0]}; the bank has 0 to {count - 1}, and -1 for the base.")
    return settled(jnp.asarray(ids.astype(np.int32)), count, count)
