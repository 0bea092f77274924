"""Products of an input with a weight, and the side path of each: `x @ (scale * a @ b)` in two thin products, whatever the axes.

A side path is given the input, W's shape and one term, and gives what is added to the product. Letters: R rank.
"""

import math
import string
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from lora_jax import lowrank
from lora_jax.products.marked import NoFactors, Term, placed, shaped, spans, squeezed, turned

Array = Any  # of JAX, or of numpy: what a program closes over comes as either
RANK = "R"  # never the letter of an axis


class Axes(NamedTuple):
    """Which axes of W [w] and of its partner x a `dot_general` sums over and which it runs over in parallel, and whether W comes second."""

    summed: tuple[int, ...]
    x_summed: tuple[int, ...]
    batch: tuple[int, ...]
    x_batch: tuple[int, ...]
    is_right: bool

    def roles(self, ndim: int) -> str:
        """A letter for each axis of W: "i" summed over, "s" in parallel, "o" free."""
        return "".join("i" if axis in self.summed else "s" if axis in self.batch else "o" for axis in range(ndim))


def axes_of(dimension_numbers: Any, side: int) -> Axes:
    """Of the operand 0 or 1 that is the weight."""
    summed, batch = dimension_numbers
    return Axes(tuple(summed[side]), tuple(summed[1 - side]), tuple(batch[side]), tuple(batch[1 - side]), side == 1)


def side_path(term: Term, shape: tuple[int, ...], x: Array, axes: Axes, out_shape: tuple[int, ...]) -> jax.Array:
    """What a term adds to `dot_general` of x and W, in the dtype that is `lowrank.wide` for x."""
    a, b, scale = _ordered(term, axes)
    free = [axis for axis in range(len(shape)) if axis not in (*axes.summed, *axes.batch)]
    real = [{axis for axis in group if shape[axis] > 1} for group in (axes.summed, free)]
    if not axes.batch and not spans(scale) and [set(spans(a)), set(spans(b))] == real:
        return _by_matrices(a, b, scale, shape, x, axes, free)
    return _by_letters(a, b, scale, shape, x, axes, out_shape)


def _ordered(term: Term, axes: Axes) -> Term:
    """The factor that spans what is summed over comes first: it makes the input narrow."""
    a, b, scale = term
    return term if set(spans(a)) & set(axes.summed) or not set(spans(b)) & set(axes.summed) else (b, a, scale)


def _by_matrices(a, b, scale, shape, x, axes: Axes, free: list[int]) -> jax.Array:
    """Two matrix products over flattened rows: the factors are matrices as they are."""
    rank = a.shape[-1]
    order = sorted(range(len(axes.summed)), key=lambda k: axes.summed[k])
    rows = [axis for axis in range(x.ndim) if axis not in axes.x_summed]
    lead = [x.shape[axis] for axis in rows]
    x = shaped(turned(x, [*rows, *(axes.x_summed[k] for k in order)]), (*lead, math.prod(a.shape[:-1])))
    b = shaped(
        turned(b, [b.ndim - 1, *range(b.ndim - 1)]), (rank, b.size // rank)
    )  # not the other way around: XLA would lay out its gradient transposed
    y = lowrank.wide_side_path(x, shaped(a, (a.size // rank, rank)), b, shaped(scale, ()))
    y = shaped(y, (*lead, *(shape[axis] for axis in free)))
    return y if axes.is_right else y.transpose(*range(len(lead), y.ndim), *range(len(lead)))


def _by_letters(a, b, scale, shape, x, axes: Axes, out_shape) -> jax.Array:
    """Three einsums, whatever each factor spans: with a, with the scale, with b."""
    letters = iter(letter for letter in string.ascii_letters if letter != RANK)
    of_x = [next(letters) for _ in range(x.ndim)]
    of_w: dict[int, str] = dict(
        zip((*axes.summed, *axes.batch), (of_x[i] for i in (*axes.x_summed, *axes.x_batch)), strict=True)
    )
    free = [axis for axis in range(len(shape)) if axis not in of_w]
    of_w |= {axis: next(letters) for axis in free}
    x_free = [of_x[axis] for axis in range(x.ndim) if axis not in (*axes.x_summed, *axes.x_batch)]
    w_free = [of_w[axis] for axis in free]
    out = [of_x[axis] for axis in axes.x_batch] + (x_free + w_free if axes.is_right else w_free + x_free)
    steps = [(a, RANK), (scale, ""), (b, RANK)] if spans(scale) else [(a, RANK), (_scaled(b, scale.reshape(())), RANK)]
    labels, value = "".join(of_x), x.astype(lowrank.wide(x.dtype))
    for k, (factor, rank) in enumerate(steps):
        own = "".join(of_w[axis] for axis in spans(factor))
        later = {of_w[axis] for other, _ in steps[k + 1 :] for axis in spans(other)}
        wanted = dict.fromkeys(labels.replace(RANK, "") + own)
        kept = "".join(letter for letter in wanted if letter in out or letter in later)
        kept += RANK if k < len(steps) - 1 else ""
        operand = squeezed(factor) if rank else squeezed(factor)[..., 0]
        value = jnp.einsum(f"{labels},{own}{rank}->{kept}", value, operand.astype(value.dtype))
        labels = kept
    found = "".join(letter for letter in out if letter in labels)
    value = jnp.einsum(f"{labels}->{found}", value)
    sizes = dict(zip(found, value.shape, strict=True))
    return jnp.broadcast_to(value.reshape([sizes.get(letter, 1) for letter in out]), out_shape)


def rows(factor, kept: tuple[int, ...], x: Array, axes: Axes, shape: tuple[int, ...]) -> jax.Array | None:
    """x times a factor along all that is summed over: [*kept, N, R]; `kept` are axes of W that run in parallel. None where that is not so."""
    if set(spans(factor)) != {axis for axis in axes.summed if shape[axis] > 1} or set(kept) - set(axes.batch):
        return None
    letters = [letter for letter in string.ascii_letters if letter != RANK][: x.ndim]
    of_w = {w: letters[at] for w, at in zip((*axes.summed, *axes.batch), (*axes.x_summed, *axes.x_batch), strict=True)}
    summed, first = {of_w[axis] for axis in axes.summed}, [of_w[axis] for axis in kept]
    others = [letter for letter in letters if letter not in summed and letter not in first]
    own = "".join(of_w[axis] for axis in spans(factor))
    value = jnp.einsum(
        f"{''.join(letters)},{own}{RANK}->{''.join((*first, *others))}{RANK}", x, squeezed(factor).astype(x.dtype)
    )
    return value.reshape(*value.shape[: len(first)], -1, value.shape[-1])


def _scaled(b: jax.Array, scale: jax.Array) -> jax.Array:
    b = b.astype(lowrank.wide(b.dtype))
    return b * scale.astype(b.dtype)


def spread(gain: jax.Array, axes: Axes, x_ndim: int) -> tuple[jax.Array, bool]:
    """A gain of W laid along the product (True), or along x (False) where it spans axes that are summed over.

    Raises:
      NoFactors: where it spans both.
    """
    spanned, w_ndim = set(spans(gain)), gain.ndim - 1
    free = [axis for axis in range(w_ndim) if axis not in (*axes.summed, *axes.batch)]
    x_free = [axis for axis in range(x_ndim) if axis not in (*axes.x_summed, *axes.x_batch)]
    if spanned & set(axes.summed):
        if spanned & set(free):
            raise NoFactors
        at = dict(zip((*axes.summed, *axes.batch), (*axes.x_summed, *axes.x_batch), strict=True))
        return placed(gain, at, x_ndim)[..., 0], False
    first = len(axes.batch) + (len(x_free) if axes.is_right else 0)
    at = {axis: to for to, axis in enumerate(axes.batch)} | {axis: first + k for k, axis in enumerate(free)}
    return placed(gain, at, len(axes.batch) + len(x_free) + len(free))[..., 0], True


def on_axis(gain: jax.Array, axis: int, to: int, ndim: int) -> tuple[jax.Array, bool]:
    """A gain that spans one axis of W, laid along one of a result. Raises NoFactors where it spans others."""
    if set(spans(gain)) - {axis}:
        raise NoFactors
    return placed(gain, {axis: to}, ndim)[..., 0], True


def convolution(term: Term, shape: tuple[int, ...], x: Array, params: dict[str, Any]) -> jax.Array:
    """What a term adds to `conv_general_dilated` of x and W: a convolution to R channels, then a product with b, group by group.

    Raises:
      NoFactors: where b spans more than the output channels, or the batch is grouped.
    """
    numbers, groups = params["dimension_numbers"], params["feature_group_count"]
    outputs = numbers.rhs_spec[0]
    a, b, scale = term if outputs in spans(term[1]) else (term[1], term[0], term[2])
    if params["batch_group_count"] != 1 or spans(scale) or set(spans(b)) - {outputs} or outputs in spans(a):
        raise NoFactors
    rank, x = a.shape[-1], x.astype(lowrank.wide(x.dtype))
    whole = tuple(1 if axis == outputs else size for axis, size in enumerate(shape))
    kernel = jnp.broadcast_to(a, (*whole, rank)).squeeze(outputs)
    kernel = jnp.moveaxis(jnp.tile(kernel, groups), -1, outputs).astype(x.dtype)
    names = ("window_strides", "padding", "lhs_dilation", "rhs_dilation", "dimension_numbers")
    narrow = lax.conv_general_dilated(
        x, kernel, *(params[name] for name in names), feature_group_count=groups, precision=params["precision"]
    )
    channels = numbers.out_spec[1]
    narrow = jnp.moveaxis(narrow, channels, -1)
    narrow = narrow.reshape(*narrow.shape[:-1], groups, rank) * scale.reshape(()).astype(x.dtype)
    wide = jnp.einsum("...gr,gkr->...gk", narrow, b.reshape(groups, -1, rank).astype(x.dtype))
    return jnp.moveaxis(wide.reshape(*wide.shape[:-2], -1), -1, channels)


def ragged(term: Term, x: Array, sizes: Array) -> jax.Array:
    """What a term adds to `ragged_dot` of x [M, D], in groups of rows, and W [G, D, K].

    Raises:
      NoFactors: where a and b are not the groups' own.
    """
    a, b, scale = term if 1 in spans(term[0]) else (term[1], term[0], term[2])
    if spans(a) != (0, 1) or spans(b) != (0, 2):
        raise NoFactors
    x = x.astype(lowrank.wide(x.dtype))
    narrow = lax.ragged_dot(x, a[:, :, 0].astype(x.dtype), sizes)
    return lax.ragged_dot(narrow, _scaled(b, scale)[:, 0].swapaxes(1, 2).astype(x.dtype), sizes)
