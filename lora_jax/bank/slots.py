"""A bank's slots while it serves: an adapter put in, or taken out, without a change of shapes, so that nothing retraces."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lora_jax.bank.stacking import base_leaves, joined, own_leaves, padded, plain
from lora_jax.errors import TreeError
from lora_jax.intake import adapted, is_known, tree_of
from lora_jax.leaves import NORM, Adapter, adapter_at, as_leaves, is_adapter_leaf, modules, name_of
from lora_jax.norms import TOLERANCE
from lora_jax.scalars import integer
from lora_jax.tree import Params, nested


def put(bank: Params, slot: Any, adapter: Params, *, base_params: Params | None = None) -> dict:
    """The bank with another adapter in a slot; `bank.apply`, jitted, does not retrace. It may be jitted itself, the slot traced.

    Args:
      slot: 0 to N - 1. Traced, one outside of that changes nothing.
      adapter: of ranks up to the bank's; where it lacks a layer or a head of the bank, the slot has the base's.
      base_params: of a whole adapted tree, what it has of these themselves is no head of its own; without them the adapter has none but its own
        leaves.

    Raises:
      TreeError: for a slot that the bank does not have (outside jit), or an adapter with a layer, a head, a rank, a magnitude or a wider dtype for
        which the bank has no place; nothing is changed.

    >>> one = {"lora_a": jnp.ones((2, 1)), "lora_b": jnp.ones((1, 3)), "lora_scale": jnp.ones(())}
    >>> from lora_jax.bank.stacking import stack
    >>> bank = stack({"kernel": jnp.zeros((2, 3))}, {"french": one}, capacity=3, rank=2)
    >>> put(bank, 1, {**one, "lora_scale": jnp.asarray(2.0)})["lora_scale"].tolist()
    [1.0, 2.0, 0.0, 0.0]
    """
    banked, count = slots_of(bank)
    base = {} if base_params is None else base_leaves(base_params)
    own = adapted(adapter, "bank.put: the adapter") if base_params is None else own_leaves("the adapter", adapter, base)
    values = _fitted(banked, own)
    return _set(banked, _index(slot, count), values)


def remove(bank: Params, slot: Any) -> dict:
    """The bank with a slot free again, that is, the base; as `put`, it causes no retrace and may be jitted.

    >>> one = {"lora_a": jnp.ones((2, 1)), "lora_b": jnp.ones((1, 3)), "lora_scale": jnp.ones(())}
    >>> from lora_jax.bank.stacking import stack
    >>> remove(stack({"kernel": jnp.zeros((2, 3))}, [one, one]), 0)["lora_scale"].tolist()
    [0.0, 1.0, 0.0]
    """
    banked, count = slots_of(bank)
    return _set(banked, _index(slot, count), {path: leaf[-1] for path, leaf in banked.items()})


def slots_of(bank: Params) -> tuple[dict[str, Any], int]:
    """(the leaves of a bank, the number N of its slots).

    Raises:
      TreeError: for what is no bank.

    >>> slots_of({"lora_a": jnp.zeros((3, 2, 1)), "lora_b": jnp.zeros((3, 1, 2)), "lora_scale": jnp.zeros(3)})[1]
    2
    """
    leaves = tree_of(bank, "the bank")
    sizes = {np.shape(leaf)[0] if np.ndim(leaf) else None for leaf in leaves.values()}
    if len(sizes) != 1 or None in sizes:
        raise TreeError(
            f"the bank {'is empty' if not leaves else 'has leaves without one first axis for all'}; make it by lora_jax.bank.stack."
        )
    return adapted(bank, "the bank"), sizes.pop() - 1


def _index(slot: Any, count: int) -> Any:
    """The slot, one that is traced and not in the bank past its end, where nothing is set."""
    if isinstance(slot, jax.core.Tracer):
        if not jnp.issubdtype(slot.dtype, jnp.integer) or slot.ndim:
            raise TreeError(f"the slot is {slot.dtype}{list(slot.shape)}; it must be one integer.")
        return settled(slot, count, count + 1)
    found = integer(slot)
    if found is None or not 0 <= found < count:
        raise TreeError(f"there is no slot {slot!r}; the bank has 0 to {count - 1}.")
    return found


def settled(ids: jax.Array, count: int, other: int) -> jax.Array:
    """Ids as int32, `other` in place of what is not 0 to count - 1: JAX would clamp it to the last, or count it from the end.

    >>> settled(jnp.array([0, -1, 2, 5]), 3, 3).tolist()
    [0, 3, 2, 3]
    """
    ids = ids.astype(jnp.int32) if ids.dtype.itemsize < 4 else ids  # int8 does not hold every count
    is_known = (ids >= 0) & (ids < count)
    return jnp.where(is_known, ids, 0).astype(jnp.int32) + jnp.where(is_known, 0, other).astype(jnp.int32)


def _fitted(banked: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """path -> what a slot of the bank holds of this adapter; where it has nothing, the base's."""
    if not modules(own):
        raise TreeError("bank.put: there is no adapter in the tree.")
    base = {path: leaf[-1] for path, leaf in banked.items()}
    found = {path: plain(leaf) for path, leaf in own.items() if not is_adapter_leaf(path)}
    for module in modules(own):
        if module not in modules(base):
            raise TreeError(
                f"the adapter has {module.rstrip('/') or 'the root'}, where the bank has no layer; stack the bank with one that has it."
            )
        found |= as_leaves(_widened(module, joined(adapter_at(own, module)), adapter_at(base, module)), module)
    for path, value in found.items():
        _require_place(path, value, base.get(path))
    return {**base, **found}


def _widened(module: str, layer: Adapter, base: Adapter) -> Adapter:
    where, rank, most = module.rstrip("/") or "the root", layer.a.shape[-1], base.a.shape[-1]
    if rank > most:
        raise TreeError(
            f"the adapter has rank {rank} at {where}, and the bank holds ranks up to {most}; stack it with rank={rank}."
        )
    if (layer.magnitude is None) != (base.magnitude is None):
        which = "no magnitude" if layer.magnitude is None else "a magnitude"
        raise TreeError(f"the adapter has {which} (DoRA) at {where}, other than the bank; they cannot share it.")
    return padded(layer, most)


def _require_place(path: str, value: Any, base: Any) -> None:
    if base is None:
        raise TreeError(
            f"the adapter brings {path}, for which the bank has no place; pass lora_jax.adapter_of(params) with its heads, or base_params= too."
        )
    if np.shape(value) != np.shape(base):
        raise TreeError(
            f"the adapter has {path} {np.shape(value)}, and the bank {np.shape(base)}: it is of another base."
        )
    if jnp.promote_types(value.dtype, base.dtype) != base.dtype:
        raise TreeError(
            f"the adapter has {path} in {value.dtype}, which the bank's {base.dtype} would round; cast it first."
        )
    if (
        name_of(path) == NORM
        and is_known(value)
        and is_known(base)
        and not np.allclose(value, base, rtol=TOLERANCE, atol=0)
    ):
        raise TreeError(
            f"the adapter has other norms at {path} than the bank (DoRA): it is of another base; lora_jax.rebase takes them anew."
        )


def _set(banked: Mapping[str, Any], index: Any, values: Mapping[str, Any]) -> dict:
    return nested({path: _set_one(leaf, index, values[path]) for path, leaf in banked.items()})


def _set_one(leaf: Any, index: Any, value: Any) -> jax.Array:
    old = jnp.asarray(leaf)
    new = old.at[index].set(jnp.asarray(value, old.dtype), mode="drop")
    is_known = not any(isinstance(array, jax.core.Tracer) for array in (old, new))
    return jax.device_put(new, old.sharding) if is_known and new.sharding != old.sharding else new
