"""Programs inside of programs: jit, remat, scan, while, cond, shard_map, and functions with a derivative of their own.

Each is bound anew around a replay of what it runs, so that what it is for (a remat's policy, a scan's single copy of its body) stays.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import JaxprEqn

from lora_jax.products.marked import Marked, NoFactors, plain
from lora_jax.products.operations import PRODUCTS
from lora_jax.products.private import bind, called, inner, origin, scan_sizes
from lora_jax.products.replay import INNER, RULES, Context, Product, run


def _call(context: Context, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
    """`jit` and its like: their equations join the program around them."""
    program, consts = called(eqn)
    return run(context, program, consts, values)


def _custom(context: Context, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
    """Left as it is on W, with its own derivative. The side paths add the difference of two replays, whose derivative is the true one."""
    program, consts = called(eqn)
    paths = _read_inside(program, consts, values) if _has_product(program) else []
    if not paths:
        raise NoFactors
    context.custom(eqn, paths)
    bare = [plain(value) for value in values]
    own = bind(eqn, bare)
    adapted = [context.dense(out) for out in run(context, program, consts, values)]
    base = run(context, program, consts, bare)
    return [_moved(*outs) for outs in zip(own, adapted, base, strict=True)]


def _moved(own: jax.Array, adapted: jax.Array, base: jax.Array) -> jax.Array:
    """own + (adapted - base), where they are numbers; infinities, ids and masks are those of the adapted function."""
    if not jnp.issubdtype(own.dtype, jnp.inexact):
        return adapted
    finite = jnp.isfinite(adapted) & jnp.isfinite(base) & jnp.isfinite(own)
    difference = jnp.where(finite, adapted, 0) - jnp.where(finite, base, 0)
    return jnp.where(finite, own + difference.astype(own.dtype), adapted)


def _has_product(program: Any) -> bool:
    return any(eqn.primitive.name in PRODUCTS or any(map(_has_product, inner(eqn))) for eqn in program.eqns)


class _Reading(Context):
    """Writes down the paths of the weights that a product reads, and adds nothing."""

    def __init__(self):
        super().__init__()
        self.paths: dict[str, None] = {}

    def product(self, eqn: JaxprEqn, weight: Marked, x: Any, product: Product) -> jax.Array:
        self.paths |= dict.fromkeys(weight.paths)
        return product.base(x)


def _read_inside(program: Any, consts: Sequence[Any], values: list[Any]) -> list[str]:
    """The paths of the weights that a product inside of the program reads. Nothing is computed."""
    reading = _Reading()
    jax.eval_shape(lambda values: list(map(plain, run(reading, program, consts, values))), values)
    return list(reading.paths)


def _remat(context: Context, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
    program, _ = called(eqn)

    def body(key, *values):
        with context.with_key(key):
            return run(context, program, (), values)

    return jax.checkpoint(body, policy=eqn.params["policy"], prevent_cse=eqn.params["prevent_cse"])(
        context.key, *values
    )


def _scan(context: Context, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
    """Weights among what is scanned over are sliced with their factors; among constants and what is only carried along they stay whole."""
    params, (program, closed) = eqn.params, called(eqn)
    fixed_count, carry_count = scan_sizes(eqn, values)
    fixed, carried, scanned = (
        values[:fixed_count],
        values[fixed_count : fixed_count + carry_count],
        values[fixed_count + carry_count :],
    )
    sources = [origin(program, out) for out in program.outvars]  # which input an output is, unchanged
    kept = {k: value for k, value in enumerate(carried) if isinstance(value, Marked) and sources[k] == fixed_count + k}
    start = [plain(value) if k in kept else context.settled(value, eqn) for k, value in enumerate(carried)]
    # Of a weight's factors those that span the scanned axis are scanned too.
    sliced = [
        [f if f.shape[0] > 1 else None for f in value.factors()] if isinstance(value, Marked) else []
        for value in scanned
    ]
    keys = None if context.key is None else jax.random.split(context.key, params["length"])

    def handed_on(k: int) -> Marked | None:
        """The weight that output k is, unchanged."""
        if k < carry_count:
            return kept.get(k)
        at = sources[k]
        is_scanned = at is not None and at >= fixed_count + carry_count
        return values[at] if is_scanned and isinstance(values[at], Marked) else None

    def of_layer(value, whole, own):
        """The weight of one layer: what is scanned comes as its slice, of the rest there is one for all."""
        if not isinstance(whole, Marked):
            return value
        given = iter(own)

        def taken(factor):
            part = next(given)
            return factor[0] if part is None else part

        return whole.each(value, taken)

    def body(carry, each):
        own_values, own_factors, key = each
        carry = [kept[k].with_value(value) if k in kept else value for k, value in enumerate(carry)]
        layer = [of_layer(*parts) for parts in zip(own_values, scanned, own_factors, strict=True)]
        with context.with_key(key):
            outs = run(context, program, closed, [*fixed, *carry, *layer])
        outs = [plain(out) if handed_on(k) is not None else context.settled(out, eqn) for k, out in enumerate(outs)]
        return outs[:carry_count], outs[carry_count:]

    more = {"_split_transpose": params["_split_transpose"]} if "_split_transpose" in params else {}
    last, stacked = lax.scan(
        body, start, ([plain(value) for value in scanned], sliced, keys),
        length=params["length"], reverse=params["reverse"], unroll=params["unroll"], **more,
    )  # fmt: skip
    outs = [*last, *stacked]
    weights = [handed_on(k) for k in range(len(outs))]
    return [out if weight is None else weight.with_value(out) for out, weight in zip(outs, weights, strict=True)]


def _while(context: Context, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
    """A dropout mask is the same in all rounds: their number is not known, and so are no keys for them."""
    params = eqn.params
    of_condition, of_body = params["cond_nconsts"], params["body_nconsts"]
    for_condition, for_body = values[:of_condition], values[of_condition : of_condition + of_body]
    carried = values[of_condition + of_body :]
    condition, body = params["cond_jaxpr"], params["body_jaxpr"]
    kept = {
        k: value
        for k, value in enumerate(carried)
        if isinstance(value, Marked) and origin(body.jaxpr, body.jaxpr.outvars[k]) == of_body + k
    }

    def marked(carry):
        return [kept[k].with_value(value) if k in kept else value for k, value in enumerate(carry)]

    def goes_on(carry):
        return context.dense(run(context, condition.jaxpr, condition.consts, [*for_condition, *marked(carry)])[0])

    def turn(carry):
        outs = run(context, body.jaxpr, body.consts, [*for_body, *marked(carry)])
        return [plain(out) if k in kept else context.settled(out, eqn) for k, out in enumerate(outs)]

    start = [plain(value) if k in kept else context.settled(value, eqn) for k, value in enumerate(carried)]
    return marked(lax.while_loop(goes_on, turn, start))


def _cond(context: Context, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
    index, *operands = values

    def branch(program) -> Callable:
        return lambda operands: [
            context.settled(out, eqn) for out in run(context, program.jaxpr, program.consts, operands)
        ]

    return lax.switch(context.dense(index, eqn), [branch(program) for program in eqn.params["branches"]], operands)


def _shard_map(context: Context, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
    """A factor lies over the devices as W does along the axes that it spans."""
    params, (program, _) = eqn.params, called(eqn)

    def spec_of(value, spec):
        if not isinstance(value, Marked):
            return spec
        names = [*spec, *[None] * (len(value.shape) - len(spec))]
        return value.each(
            spec, lambda f: jax.P(*(name if f.shape[axis] > 1 else None for axis, name in enumerate(names)), None)
        )

    def body(*values):
        return tuple(context.settled(out, eqn) for out in run(context, program, (), values))

    specs = tuple(spec_of(value, spec) for value, spec in zip(values, params["in_specs"], strict=True))
    return list(
        jax.shard_map(
            body,
            mesh=params["mesh"],
            in_specs=specs,
            out_specs=tuple(params["out_specs"]),
            check_vma=params["check_vma"],
            axis_names=set(params["newly_manual_axes"]),
        )(*values)
    )


OWN: dict[str, Callable] = {
    **dict.fromkeys(("jit", "pjit", "closed_call", "core_call"), _call),
    **dict.fromkeys(("custom_jvp_call", "custom_vjp_call"), _custom),
    **dict.fromkeys(("checkpoint", "remat", "remat2"), _remat),
    "scan": _scan,
    "while": _while,
    "cond": _cond,
    "shard_map": _shard_map,
}
RULES.update(OWN)
INNER.update(OWN)
