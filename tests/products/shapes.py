"""Does a gradient of the adapters ever form an array that is laid out as a kernel is? Read off its program, without running it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import lora_jax
from lora_jax.leaves import is_adapter_leaf
from lora_jax.products.private import scan_sizes
from lora_jax.tree import flat


def depending(run: Callable[[Any], Any], params: Any) -> set[tuple[int, ...]]:
    """How all arrays that depend on the adapters are laid out, in the whole program of the adapters' gradient of `run(params)`."""
    frozen, trainable = lora_jax.partition(params, lora_jax.trainable_mask(params))

    def loss(trainable, frozen):
        return sum(
            jnp.sum(jnp.sin(out))
            for out in jax.tree.leaves(run(lora_jax.combine(frozen, trainable)))
            if jnp.issubdtype(out.dtype, jnp.floating)
        )

    program = jax.make_jaxpr(jax.grad(loss))(trainable, frozen).jaxpr
    count = len(jax.tree.leaves(trainable))
    found, _ = moved(program, [k < count for k in range(len(program.invars))])
    return {sides(v.aval.shape) for v in found}


def kernels(params: Any) -> set[tuple[int, ...]]:
    """How the leaves of the base are laid out, and one of each along their first or last axis."""
    shapes = [leaf.shape for path, leaf in flat(params).items() if not is_adapter_leaf(path) and hasattr(leaf, "shape")]
    return {sides(part) for shape in shapes for part in (shape, shape[1:], shape[:-1]) if len(part) > 1}


def sides(shape) -> tuple[int, ...]:
    """The sizes of the axes, in any order."""
    return tuple(sorted(size for size in shape if size > 1))


def moved(jaxpr, depends: list[bool]) -> tuple[list, list[bool]]:
    """(variables that depend on the inputs so marked, those of inner programs too; which outputs do)."""
    known, found = {v for v, does in zip(jaxpr.invars, depends, strict=True) if does}, []
    for eqn in jaxpr.eqns:
        given = [not hasattr(v, "val") and v in known for v in eqn.invars]
        if not any(given):
            continue
        programs = inner_programs(eqn)
        if eqn.primitive.name == "cond":  # its index comes first, and any branch may run
            given = given[1:]
        outs = [not programs] * len(eqn.outvars)
        for inner in programs:
            if len(inner.invars) == len(given) and len(inner.outvars) == len(outs):
                own, of_inner = through(eqn, inner, given)
                outs = [one or other for one, other in zip(outs, of_inner, strict=True)]
            else:  # a while's parts: coarsely
                own, _ = moved(inner, [True] * len(inner.invars))
                outs = [True] * len(outs)
            found += own
        known.update(v for v, does in zip(eqn.outvars, outs, strict=True) if does)
        found += [v for v, does in zip(eqn.outvars, outs, strict=True) if does]
    return found, [not hasattr(v, "val") and v in known for v in jaxpr.outvars]


def through(eqn, inner, given: list[bool]) -> tuple[list, list[bool]]:
    """Of a scan until what it carries has settled."""
    while True:
        own, outs = moved(inner, given)
        if eqn.primitive.name != "scan":
            return own, outs
        consts, carried = scan_sizes(eqn, eqn.invars)
        more = [has or (consts <= k < consts + carried and outs[k - consts]) for k, has in enumerate(given)]
        if more == given:
            return own, outs
        given = more


def inner_programs(eqn) -> list:
    values = [v for value in eqn.params.values() for v in (value if isinstance(value, (tuple, list)) else (value,))]
    return [inner for inner in (getattr(v, "jaxpr", v) for v in values) if hasattr(inner, "eqns")]
