"""Equations that only lay a weight out anew: its factors are laid out in the same way.

A rule takes one factor [*axes or 1, R], the equation's parameters, W's shape before and after, and the other operands.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import JaxprEqn

from lora_jax.products.marked import Marked, NoFactors, Term, plain, spans, times
from lora_jax.products.private import bind

Shape = tuple[int, ...]


def _each(rule: Callable[..., jax.Array]) -> Callable:
    """A rule of one factor, of a first operand that is marked and others that are not."""

    def lifted(eqn: JaxprEqn, values: list[Any]) -> list[Any]:
        marked, *others = values
        if not isinstance(marked, Marked) or any(isinstance(other, Marked) for other in others):
            raise NoFactors
        (value,) = bind(eqn, [marked.value, *others])
        return [marked.each(value, lambda f: rule(f, eqn.params, marked.shape, tuple(value.shape), *others))]

    return lifted


def _same(factor, params, before: Shape, after: Shape, *others):
    return factor


def _convert(factor, params, before: Shape, after: Shape):
    if not jnp.issubdtype(params["new_dtype"], jnp.inexact):
        raise NoFactors
    return factor  # cast where it is multiplied


def _transpose(factor, params, before: Shape, after: Shape):
    return factor.transpose(*params["permutation"], factor.ndim - 1)


def _squeeze(factor, params, before: Shape, after: Shape):
    return lax.squeeze(factor, params["dimensions"])


def _broadcast(factor, params, before: Shape, after: Shape, *others):
    dimensions = params["broadcast_dimensions"]
    shape = [1] * len(after) + [factor.shape[-1]]
    for axis, to in enumerate(dimensions):
        shape[to] = factor.shape[axis]
    return lax.broadcast_in_dim(factor, shape, (*dimensions, len(after)))


def _reshape(factor, params, before: Shape, after: Shape, *others):
    """Run by run of axes that hold the same entries. A run that is spanned in part must grow, which only a factor of rank 1 may."""
    if params.get("dimensions") is not None:
        raise NoFactors
    whole, shape = list(factor.shape[:-1]), []
    for old, new in runs(before, after):
        real = [axis for axis in old if before[axis] > 1]
        spanned = [axis for axis in real if factor.shape[axis] > 1]
        for axis in real if spanned else ():
            whole[axis] = before[axis]
        shape += [after[axis] if spanned else 1 for axis in new]
    if tuple(whole) != factor.shape[:-1]:
        if factor.shape[-1] != 1:  # it would be as large as W
            raise NoFactors
        factor = jnp.broadcast_to(factor, (*whole, factor.shape[-1]))
    return factor.reshape(*shape, factor.shape[-1])


def runs(before: Shape, after: Shape) -> list[tuple[range, range]]:
    """The shortest runs of axes with equal products, in order; axes of size 1 go with the run before them.

    >>> runs((4, 6), (2, 2, 3, 2))
    [(range(0, 1), range(0, 2)), (range(1, 2), range(2, 4))]
    >>> runs((1, 4), (4, 1)), runs((), (1,))
    ([(range(0, 2), range(0, 2))], [(range(0, 0), range(0, 1))])
    """
    found, i, j = [], 0, 0
    while i < len(before) or j < len(after):
        start, m, n = (i, j), 1, 1
        while (i, j) == start or m != n or (m == 1 and (i < len(before) or j < len(after))):
            if m <= n and i < len(before):
                m, i = m * before[i], i + 1
            else:
                n, j = n * after[j], j + 1
        while i < len(before) and before[i] == 1:
            i += 1
        while j < len(after) and after[j] == 1:
            j += 1
        found.append((range(start[0], i), range(start[1], j)))
    return found


def _cut(factor, params, before: Shape, after: Shape):
    """`slice`, along the axes that the factor spans."""
    spanned = spans(factor)

    def chosen(values: Sequence[int], other: Sequence[int]) -> list[int]:
        return [
            value if axis in spanned else instead
            for axis, (value, instead) in enumerate(zip(values, other, strict=True))
        ]

    ones = [1] * len(before)
    start = chosen(params["start_indices"], [0] * len(before))
    limit, strides = chosen(params["limit_indices"], ones), chosen(params["strides"] or ones, ones)
    return lax.slice(factor, (*start, 0), (*limit, factor.shape[-1]), (*strides, 1))


def _dynamic_cut(factor, params, before: Shape, after: Shape, *starts):
    spanned = spans(factor)
    begin = [start if axis in spanned else jnp.zeros_like(start) for axis, start in enumerate(starts)]
    sizes = [size if axis in spanned else 1 for axis, size in enumerate(params["slice_sizes"])]
    return lax.dynamic_slice(factor, (*begin, jnp.zeros_like(starts[0])), (*sizes, factor.shape[-1]))


def _reverse(factor, params, before: Shape, after: Shape):
    return lax.rev(factor, [axis for axis in params["dimensions"] if axis in spans(factor)])


def _filled(term: Term, axis: int, length: int, low: int, high: int) -> Term:
    """The term with zeros before and after it along an axis of W, which is so long. Where no factor spans the axis, one comes to."""
    spanning = [k for k, factor in enumerate(term) if axis in spans(factor)] or [0]

    def padded(factor: jax.Array) -> jax.Array:
        factor = jnp.broadcast_to(factor, (*factor.shape[:axis], length, *factor.shape[axis + 1 :]))
        return jnp.pad(factor, [(low, high) if i == axis else (0, 0) for i in range(factor.ndim)])

    return tuple(padded(factor) if k in spanning else factor for k, factor in enumerate(term))


def _concatenate(eqn: JaxprEqn, values: list[Any]) -> list[Any]:
    axis, size = eqn.params["dimension"], eqn.outvars[0].aval.shape[eqn.params["dimension"]]
    terms, paths, at = [], [], 0
    for part in values:
        length = part.shape[axis]
        if isinstance(part, Marked):
            if part.gain is not None:
                raise NoFactors
            terms += [_filled(term, axis, length, at, size - at - length) for term in part.terms]
            paths += part.paths
        at += length
    (value,) = bind(eqn, [plain(part) for part in values])
    return [Marked(value, terms, paths)]


def _pad(eqn: JaxprEqn, values: list[Any]) -> list[Any]:
    marked, fill = values
    config = [tuple(map(int, edges)) for edges in eqn.params["padding_config"]]
    if (
        not isinstance(marked, Marked)
        or isinstance(fill, Marked)
        or any(min(low, high) < 0 or inside for low, high, inside in config)
    ):
        raise NoFactors
    if marked.gain is not None:
        raise NoFactors
    (value,) = bind(eqn, [marked.value, fill])
    terms = marked.terms
    for axis, (low, high, _) in enumerate(config):
        if low or high:
            terms = [_filled(term, axis, marked.shape[axis], low, high) for term in terms]
    return [Marked(value, terms, marked.paths)]


def _split(eqn: JaxprEqn, values: list[Any]) -> list[Any]:
    """Into parts along an axis: a factor that spans it is split with W."""
    (marked,) = values
    axis, sizes = eqn.params["axis"], [int(size) for size in eqn.params["sizes"]]
    outputs, starts = bind(eqn, [marked.value]), [sum(sizes[:k]) for k in range(len(sizes))]

    def part(factor: jax.Array, start: int, size: int) -> jax.Array:
        return lax.slice_in_dim(factor, start, start + size, axis=axis) if axis in spans(factor) else factor

    return [
        marked.each(out, functools.partial(part, start=start, size=size))
        for out, start, size in zip(outputs, starts, sizes, strict=True)
    ]


def _negate(eqn: JaxprEqn, values: list[Any]) -> list[Any]:
    (marked,) = values
    (value,) = bind(eqn, [marked.value])
    return [marked.with_terms(value, [times(term, -1) for term in marked.terms])]


def _multiply(eqn: JaxprEqn, values: list[Any]) -> list[Any]:
    """By a number; `div` as well."""
    left, right = values
    if isinstance(left, Marked) == isinstance(right, Marked):
        raise NoFactors
    marked, number = (left, right) if isinstance(left, Marked) else (right, left)
    is_division = eqn.primitive.name == "div"
    if jnp.size(number) != 1 or (is_division and isinstance(right, Marked)):
        raise NoFactors
    (value,) = bind(eqn, [plain(left), plain(right)])
    number = jnp.reshape(jnp.asarray(number), ()).astype(jnp.promote_types(jnp.float32, value.dtype))
    factor = 1 / number if is_division else number
    return [marked.with_terms(value, [times(term, factor) for term in marked.terms])]


def _add(eqn: JaxprEqn, values: list[Any]) -> list[Any]:
    """Of two weights; `sub` as well. To an activation W + delta is added: behind it nothing could be factored."""
    left, right = values
    if not (isinstance(left, Marked) and isinstance(right, Marked)) or left.gain is not None or right.gain is not None:
        raise NoFactors
    sign = -1 if eqn.primitive.name == "sub" else 1
    (value,) = bind(eqn, [left.value, right.value])
    terms = [*left.terms, *(times(term, sign) for term in right.terms)]
    return [Marked(value, terms, left.paths + right.paths)]


def summed(eqn: JaxprEqn, marked: Marked) -> Marked:
    """Over axes of which each is spanned by one factor at most; einsum sums out a label so that only the kernel has.

    Raises:
      NoFactors: where two factors span one, or there is a gain.
    """
    axes = eqn.params["axes"]
    if marked.gain is not None:
        raise NoFactors
    (value,) = bind(eqn, [marked.value])
    return marked.with_terms(value, [_summed(term, axes, marked.shape) for term in marked.terms])


def _summed(term: Term, axes: Sequence[int], shape: Shape) -> Term:
    for axis in axes:
        spanning = [k for k, factor in enumerate(term) if axis in spans(factor)]
        if len(spanning) > 1:
            raise NoFactors
        term = tuple(f.sum(axis, keepdims=True) if k in spanning else f for k, f in enumerate(term))
        term = term if spanning else times(term, shape[axis])
    return tuple(lax.squeeze(factor, axes) for factor in term)


def _barrier(eqn: JaxprEqn, values: list[Any]) -> list[Any]:
    outputs = bind(eqn, [plain(value) for value in values])
    return [v.with_value(out) if isinstance(v, Marked) else out for out, v in zip(outputs, values, strict=True)]


def _all_same(*names: str) -> dict[str, Callable]:
    return dict.fromkeys(names, _each(_same))


RULES: dict[str, Callable] = {
    **_all_same("copy", "copy_p", "sharding_constraint", "name", "pvary", "reduce_precision", "device_put", "reshard"),
    **_all_same("layout_constraint", "pbroadcast"),
    "add": _add,
    "add_any": _add,
    "broadcast_in_dim": _each(_broadcast),
    "concatenate": _concatenate,
    "convert_element_type": _each(_convert),
    "div": _multiply,
    "dynamic_slice": _each(_dynamic_cut),
    "mul": _multiply,
    "neg": _negate,
    "optimization_barrier": _barrier,
    "pad": _pad,
    "reshape": _each(_reshape),
    "rev": _each(_reverse),
    "slice": _each(_cut),
    "split": _split,
    "squeeze": _each(_squeeze),
    "sub": _add,
    "transpose": _each(_transpose),
}
