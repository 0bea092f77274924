"""Which products are a model's output layers: those that an output comes from alone, and whose result no other product with a weight reads."""

from collections.abc import Mapping
from typing import Any

from jax.extend.core import Jaxpr, JaxprEqn, Literal

from lora_jax.products.private import HANDING_ON, called, inner

MANY = {("",), ("", "")}  # stands for more than one
CALLS = (*HANDING_ON, "custom_jvp_call", "custom_vjp_call")
Eaters = Mapping[int, tuple[str, ...]]  # id of an equation -> paths of the weights that it multiplies


def last_products(program: Jaxpr, eaters: Eaters) -> set[str]:
    """The leaves whose product alone an output of the program comes from.

    A sum of several (a residual stream) has no output layer; neither has what a loop gives. A product that another reads (keys and values, handed
    out as a cache) is none.
    """
    found: set[str] = set()
    for out in program.outvars:
        before, _ = _behind(program, out, eaters)
        if len(before) == 1:
            found |= set(next(iter(before)))
    return found - _read_on(program, eaters)


def _behind(program: Jaxpr, out: Any, eaters: Eaters) -> tuple[set[tuple[str, ...]], set[int]]:
    """(the products with weights that are found on the way back from a variable, the inputs of the program that are)."""
    made: dict[Any, JaxprEqn] = {v: eqn for eqn in program.eqns for v in eqn.outvars}
    inputs = {v: k for k, v in enumerate(program.invars)}
    found: set[tuple[str, ...]] = set()
    reached, seen, ahead = set(), set(), [out]
    while ahead:
        variable = ahead.pop()
        if isinstance(variable, Literal) or variable in seen:
            continue
        seen.add(variable)
        if variable not in made:
            reached |= {inputs[variable]} if variable in inputs else set()
            continue
        eqn = made[variable]
        if id(eqn) in eaters:
            found.add(eaters[id(eqn)])
        elif eqn.primitive.name in CALLS:
            inside, _ = called(eqn)
            own, through = _behind(inside, inside.outvars[list(eqn.outvars).index(variable)], eaters)
            found |= own
            ahead += [eqn.invars[k] for k in through]
        elif any(True for _ in inner(eqn)):
            found |= MANY
        else:
            ahead += eqn.invars
    return found, reached


def _read_on(program: Jaxpr, eaters: Eaters) -> set[str]:
    """The leaves whose product another product with a weight reads."""
    found: set[str] = set()
    needed: set[Any] = set()  # variables that such a product comes from
    for eqn in reversed(program.eqns):
        own, is_needed = _within(eqn, eaters), any(out in needed for out in eqn.outvars)
        if is_needed:
            found |= own
        if own or is_needed:
            needed |= {read for read in eqn.invars if not isinstance(read, Literal)}
        for inside in inner(eqn) if own else ():
            found |= _read_on(inside, eaters)
    return found


def _within(eqn: JaxprEqn, eaters: Eaters) -> set[str]:
    """The leaves of all products that an equation is or runs."""
    own = set(eaters.get(id(eqn), ()))
    return own.union(*(_within(each, eaters) for program in inner(eqn) for each in program.eqns))
