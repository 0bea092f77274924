"""A weight under way through a program, and what its adapter adds to it.

A marked value is W with terms: `delta = sum over terms and r of the product over factors f of f[..., r]`. Every factor has W's own axes, of size 1
where it does not span them, and the rank's axis last. So a relayout of W is the same relayout of each factor, and which axes a factor spans is in
its shape. A term of an adapter has three factors, `a`, `b` and the scale, whose rank axis is 1 long.
"""

import functools
import operator
import string
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Term = tuple[jax.Array, ...]


class Rows(NamedTuple):
    """What an equation looked up, of which several axes are left: a row of a table or a layer of a stack, as the use of it will tell.

    `factors` are those of each term that span what was picked; two that span the same are a stack's.
    """

    lookup: Any  # its equation
    factors: tuple[int, ...]


@jax.tree_util.register_pytree_node_class
class Marked:
    """`value`, the terms of the adapters of the leaves at `paths`, one path a term, and a gain.

    The gain (DoRA's magnitude over norm) is one more factor, `W' = gain * (W + delta)`, with 1 on the axes that the layer sums over; None is 1. What
    `is_latent` is no weight yet: codes of a quantised one, on their way to where they are opened. `rows` is what was looked up on the way.
    """

    def __init__(
        self,
        value: Any,
        terms: Sequence[tuple[Any, ...]],  # arrays, or what stands for them: specs, None
        paths: Sequence[str],
        gain: Any = None,
        is_latent: bool = False,
        rows: "Rows | None" = None,
    ):
        self.value, self.terms, self.paths = value, list(terms), tuple(paths)
        self.gain, self.is_latent, self.rows = gain, is_latent, rows

    def tree_flatten(self):
        return (self.value, self.terms, self.gain), (self.paths, self.is_latent, self.rows)

    @classmethod
    def tree_unflatten(cls, about, children):
        value, terms, gain = children
        paths, is_latent, rows = about
        return cls(value, terms, paths, gain, is_latent, rows)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.value.shape)

    def factors(self) -> list[jax.Array]:
        """All of them, in the order in which `each` comes to them."""
        return jax.tree.leaves((self.terms, self.gain))

    def each(self, value: Any, change) -> "Marked":
        """Another value, and every factor, the gain too, as `change(factor)` has it."""
        terms, gain = jax.tree.map(change, (self.terms, self.gain))
        return Marked(value, terms, self.paths, gain, self.is_latent, self.rows)

    def with_value(self, value: Any) -> "Marked":
        """The same factors on another value."""
        return Marked(value, self.terms, self.paths, self.gain, self.is_latent, self.rows)

    def with_terms(self, value: Any, terms: Sequence[Term]) -> "Marked":
        """Another value and other terms."""
        return Marked(value, terms, self.paths, self.gain, self.is_latent, self.rows)


class NoFactors(Exception):
    """The update has no factored form behind this equation: W + delta would have to be formed before it."""


def plain(value: Any) -> Any:
    """The value without its mark."""
    return value.value if isinstance(value, Marked) else value


def spans(factor: jax.Array) -> tuple[int, ...]:
    """The axes of W that a factor spans."""
    return tuple(axis for axis, size in enumerate(factor.shape[:-1]) if size != 1)


def shaped(array: Any, shape: Sequence[int]) -> Any:
    """`array.reshape(shape)`, with less to trace, and nothing where it has that shape."""
    return array if tuple(array.shape) == tuple(shape) else jax.lax.reshape(array, tuple(shape))


def turned(array: Any, order: Sequence[int]) -> Any:
    """`array.transpose(order)`, likewise."""
    return array if list(order) == list(range(array.ndim)) else jax.lax.transpose(array, tuple(order))


def squeezed(factor: jax.Array) -> jax.Array:
    """The axes that it spans, in order, and the rank's.

    >>> squeezed(jnp.ones((1, 3, 1, 4, 2))).shape
    (3, 4, 2)
    """
    return factor.reshape(*(factor.shape[axis] for axis in spans(factor)), factor.shape[-1])


def placed(factor: jax.Array, at: Mapping[int, int], ndim: int) -> jax.Array:
    """The axes that a factor spans, each at another's place among `ndim`; 1 elsewhere, the rank's axis last.

    >>> placed(jnp.ones((3, 1, 4, 2)), {0: 2, 2: 0}, 3).shape
    (4, 1, 3, 2)
    """
    own = spans(factor)
    order = sorted(own, key=lambda axis: at[axis])
    sizes = {at[axis]: factor.shape[axis] for axis in own}
    value = squeezed(factor).transpose(*(own.index(axis) for axis in order), len(own))
    return value.reshape(*(sizes.get(axis, 1) for axis in range(ndim)), factor.shape[-1])


def times(term: Term, number: Any) -> Term:
    """The term times a number; the last factor of an adapter's is its scale."""
    return (*term[:-1], term[-1] * number)


def together(terms: Sequence[Term]) -> list[Term]:
    """The same sum of fewer terms: those whose factors span the same axes (kernels side by side, two adapters of one kernel) become one of
    the sum of their ranks, so that a product takes one thin pair for all of them.

    >>> one, scale = jnp.ones((2, 1, 3)), jnp.full((1, 1, 1), 0.5)
    >>> [factor.shape for factor in together([(one, jnp.ones((1, 4, 3)), scale)] * 2)[0]]
    [(2, 1, 6), (1, 4, 6), (1, 1, 1)]
    """
    alike: dict[Any, list[Term]] = {}
    for k, term in enumerate(terms):
        spanned = tuple(map(spans, term))
        alike.setdefault(spanned if len(term) == 3 and not spanned[2] else k, []).append(term)
    return [_joined(group) if len(group) > 1 else group[0] for group in alike.values()]


def _joined(terms: Sequence[Term]) -> Term:
    a = jnp.concatenate([a for a, _, _ in terms], axis=-1)
    b = jnp.concatenate([b * scale for _, b, scale in terms], axis=-1)
    return a, b, jnp.ones_like(terms[0][2])


def total(term: Term, shape: Sequence[int]) -> jax.Array:
    """The update itself, W-shaped: float32 at least.

    >>> total((jnp.ones((2, 1, 5)), jnp.ones((1, 3, 5)), jnp.full((1, 1, 1), 0.5)), (2, 3)).tolist()
    [[2.5, 2.5, 2.5], [2.5, 2.5, 2.5]]
    """
    dtype = functools.reduce(jnp.promote_types, (factor.dtype for factor in term), jnp.float32)
    letters = string.ascii_lowercase[: len(shape)]
    rank = max(factor.shape[-1] for factor in term)
    terms, operands = [], []
    for factor in term:
        ranked = "R" if factor.shape[-1] == rank > 1 else ""
        terms.append("".join(letters[axis] for axis in spans(factor)) + ranked)
        operands.append((squeezed(factor) if ranked else squeezed(factor)[..., 0]).astype(dtype))
    out = "".join(letter for letter in letters if any(letter in part for part in terms))
    summed = jnp.einsum(f"{','.join(terms)}->{out}", *operands)
    sizes = [size if letter in out else 1 for letter, size in zip(letters, shape, strict=True)]
    return jnp.broadcast_to(summed.reshape(sizes), shape)


def formed(marked: Marked) -> jax.Array:
    """W + delta, times the gain, in W's dtype."""
    updates = [total(term, marked.shape) for term in marked.terms]
    whole = marked.value + functools.reduce(operator.add, updates)
    if marked.gain is not None:
        whole = whole * marked.gain[..., 0]
    return whole.astype(marked.value.dtype)
