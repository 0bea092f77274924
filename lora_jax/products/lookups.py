"""Rows that are looked up: of a table, which is a product with one-hot rows, or whole matrices out of a stack, which stay weights."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import JaxprEqn

from lora_jax import lowrank
from lora_jax.products.marked import Marked, Rows, Term, placed, spans, squeezed, total

Array = Any  # of JAX, or of numpy: what a program closes over comes as either


def indexed_axes(params: dict[str, Any], shape: tuple[int, ...]) -> tuple[int, ...]:
    """The axes of W along which a `gather` picks; those that it runs over in parallel, as a lookup under `vmap` does, are not among them."""
    batch = params["dimension_numbers"].operand_batching_dims
    return tuple(axis for axis, size in enumerate(shape) if params["slice_sizes"][axis] < size and axis not in batch)


def roles(params: dict[str, Any], shape: tuple[int, ...]) -> str:
    """A letter for each axis of W: "i" picked along, "s" in parallel, "o" free."""
    picked, batch = indexed_axes(params, shape), params["dimension_numbers"].operand_batching_dims
    return "".join("i" if axis in picked else "s" if axis in batch else "o" for axis in range(len(shape)))


def is_table(params: dict[str, Any], shape: tuple[int, ...]) -> bool:
    """Whether what is picked are rows: fewer than two axes are left of W."""
    return sum(size > 1 for size, role in zip(shape, roles(params, shape), strict=True) if role == "o") < 2


def are_rows(marked: Marked, params: dict[str, Any]) -> bool:
    """Whether the adapters say that what is picked are rows, though several axes are left: one factor spans what is picked, the other the rest."""
    picked = frozenset(indexed_axes(params, marked.shape))
    kept = frozenset(axis for axis, size in enumerate(marked.shape) if size > 1) - picked
    return all({frozenset(spans(factor)) for factor in term[:2]} == {picked, kept} for term in marked.terms)


def gathered(marked: Marked, value: Any, indices: Array, eqn: JaxprEqn) -> Marked:
    """The factors, looked up as W was: of a stack of matrices."""
    picked = indexed_axes(eqn.params, marked.shape)
    found = marked.each(value, lambda factor: _of_factor(factor, picked, value.ndim, indices, eqn.params))
    of_each = {tuple(k for k, factor in enumerate(term) if {*spans(factor)} & {*picked}) for term in marked.terms}
    is_stack = any(sum(axis in spans(factor) for factor in term) != 1 for term in marked.terms for axis in picked)
    found.rows = None if is_stack or len(of_each) != 1 else Rows(eqn, *of_each)
    return found


def side_path(
    term: Term, shape: tuple[int, ...], indices: Array, params: dict[str, Any], value: jax.Array
) -> jax.Array:
    """What a term adds to the rows that were looked up, `value`: rows of the factor that spans the table's, times the other."""
    picked = indexed_axes(params, shape)
    a, b, scale = term if set(spans(term[0])) & set(picked) else (term[1], term[0], term[2])
    kept = {axis for axis, size in enumerate(shape) if size > 1 and axis not in picked}
    is_in_parallel = bool(params["dimension_numbers"].operand_batching_dims)
    if is_in_parallel or set(spans(a)) - set(picked) or set(spans(b)) != kept or spans(scale):
        return total(tuple(_of_factor(f, picked, value.ndim, indices, params) for f in term), value.shape)
    narrow = _of_factor(a, picked, value.ndim, indices, params)
    offset = params["dimension_numbers"].offset_dims
    lead = [size for axis, size in enumerate(value.shape) if axis not in offset]
    narrow = narrow.reshape(*lead, a.shape[-1]).astype(lowrank.wide(value.dtype))
    wide = lowrank.scaled_matmul(narrow, jnp.moveaxis(squeezed(b), -1, 0).reshape(a.shape[-1], -1), scale.reshape(()))
    ends = [axis for axis in range(value.ndim) if axis not in offset]
    laid = wide.reshape(*lead, *(value.shape[axis] for axis in offset))
    order = [*ends, *offset]
    return laid.transpose([order.index(axis) for axis in range(value.ndim)])


def spread(
    gain: jax.Array, shape: tuple[int, ...], indices: Array, params: dict[str, Any], ndim: int
) -> tuple[jax.Array, bool]:
    """A gain of the table laid along the rows that were looked up; always along the result, True."""
    picked = indexed_axes(params, shape)
    return _of_factor(gain, picked, ndim, indices, params)[..., 0], True


def _of_factor(
    factor: jax.Array, picked: tuple[int, ...], ndim: int, indices: Array, params: dict[str, Any]
) -> jax.Array:
    """[*axes of the result or 1, R]"""
    numbers, spanned = params["dimension_numbers"], set(spans(factor))
    ends = [axis for axis in range(ndim) if axis not in numbers.offset_dims]
    batch = dict(zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True))
    if not spanned & set(picked):
        kept = [axis for axis in range(factor.ndim - 1) if axis not in (*numbers.collapsed_slice_dims, *batch)]
        at = dict(zip(kept, map(int, numbers.offset_dims), strict=True)) | {
            axis: ends[column] for axis, column in batch.items()
        }
        return placed(factor, at, ndim)
    batch = {axis: column for axis, column in batch.items() if axis in spanned}
    once = set(numbers.operand_batching_dims) - batch.keys()  # of these there is one for all
    columns = [k for k, axis in enumerate(numbers.start_index_map) if axis in spanned]
    if len(columns) < indices.shape[-1]:
        indices = indices[..., jnp.array(columns, int)]
    of_factor = lax.GatherDimensionNumbers(
        offset_dims=(*numbers.offset_dims, ndim),
        collapsed_slice_dims=tuple(sorted({*numbers.collapsed_slice_dims, *once})),
        start_index_map=tuple(numbers.start_index_map[k] for k in columns),
        operand_batching_dims=tuple(batch),
        start_indices_batching_dims=tuple(batch.values()),
    )
    sizes = [size if axis in spanned else 1 for axis, size in enumerate(params["slice_sizes"])]
    return lax.gather(
        factor, indices, of_factor, (*sizes, factor.shape[-1]),
        mode=params["mode"], fill_value=params["fill_value"], indices_are_sorted=params["indices_are_sorted"],
    )  # fmt: skip
