"""The operations that multiply an input with a weight: each says its roles, and how it, a term's side path and a gain run."""

from collections.abc import Sequence
from typing import Any

from jax.extend.core import JaxprEqn

from lora_jax.products import dots, lookups, relayouts
from lora_jax.products.marked import Marked, NoFactors
from lora_jax.products.private import bind
from lora_jax.products.replay import RULES, Context, Product


def _dot(context: Context, eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    left, right = values
    if isinstance(left, Marked) and isinstance(right, Marked):
        left = context.settled(left, eqn)
    side = 1 if isinstance(right, Marked) else 0
    weight, x = (right, left) if side else (left, right)
    axes = dots.axes_of(eqn.params["dimension_numbers"], side)
    out = eqn.outvars[0].aval.shape
    product = Product(
        axes.roles(len(weight.shape)),
        base=lambda x: bind(eqn, [x, weight.value] if side else [weight.value, x])[0],
        side=lambda term, x: dots.side_path(term, weight.shape, x, axes, out),
        spread=lambda gain: dots.spread(gain, axes, x.ndim),
        rows=lambda factor, kept, x: dots.rows(factor, kept, x, axes, weight.shape),
    )
    return [context.product(eqn, weight, x, product)]


def _convolution(context: Context, eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    x, weight = values
    if isinstance(x, Marked):
        raise NoFactors
    numbers = eqn.params["dimension_numbers"]
    outputs = numbers.rhs_spec[0]
    product = Product(
        "".join("o" if axis == outputs else "i" for axis in range(len(weight.shape))),
        base=lambda x: bind(eqn, [x, weight.value])[0],
        side=lambda term, x: dots.convolution(term, weight.shape, x, eqn.params),
        spread=lambda gain: dots.on_axis(gain, outputs, numbers.out_spec[1], len(weight.shape)),
    )
    return [context.product(eqn, weight, x, product)]


def _ragged(context: Context, eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    x, weight, sizes = values
    numbers = eqn.params["ragged_dot_dimension_numbers"]
    is_usual = numbers.dot_dimension_numbers == (((1,), (1,)), ((), ())) and tuple(numbers.rhs_group_dimensions) == (0,)
    if isinstance(x, Marked) or isinstance(sizes, Marked) or not is_usual or weight.gain is not None:
        raise NoFactors
    product = Product(
        "sio",
        base=lambda x: bind(eqn, [x, weight.value, sizes])[0],
        side=lambda term, x: dots.ragged(term, x, sizes),
    )
    return [context.product(eqn, weight, x, product)]


def _gather(context: Context, eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    weight, indices = values
    if isinstance(indices, Marked):
        raise NoFactors
    (value,) = bind(eqn, [weight.value, indices])
    if not lookups.is_table(eqn.params, weight.shape) and not lookups.are_rows(weight, eqn.params):
        return [lookups.gathered(weight, value, indices, eqn)]
    product = Product(
        lookups.roles(eqn.params, weight.shape),
        base=lambda _: value,
        side=lambda term, _: lookups.side_path(term, weight.shape, indices, eqn.params, value),
        spread=lambda gain: lookups.spread(gain, weight.shape, indices, eqn.params, value.ndim),
    )
    return [context.product(eqn, weight, None, product)]


def _sum(context: Context, eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    """No product; but which axes are summed away here tells what they are."""
    (weight,) = values
    return [context.summed(weight, relayouts.summed(eqn, weight))]


def _stop(context: Context, eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    (weight,) = values
    return [context.stopped(eqn, weight, bind(eqn, [weight.value])[0])]


PRODUCTS = {
    "dot_general": _dot,
    "conv_general_dilated": _convolution,
    "ragged_dot_general": _ragged,
    "gather": _gather,
}
RULES.update(PRODUCTS, reduce_sum=_sum, stop_gradient=_stop)
