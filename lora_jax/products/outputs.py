"""Which products are a model's output layers: those behind which no other product with a weight comes, one for an output."""

from collections.abc import Mapping
from typing import Any

from jax.extend.core import Jaxpr, JaxprEqn, Literal

from lora_jax.products.private import HANDING_ON, called

MANY = {("",), ("", "")}  # stands for more than one
CALLS = (*HANDING_ON, "custom_jvp_call", "custom_vjp_call")


def last_products(program: Jaxpr, eaters: Mapping[int, tuple[str, ...]]) -> set[str]:
    """The leaves whose product alone an output of the program comes from.

    A sum of several (a residual stream) has no output layer; neither has what a loop gives.

    Args:
      eaters: id of an equation -> paths of the weight that it multiplies.
    """
    found = set()
    for out in program.outvars:
        before = _behind(program, out, eaters)
        if len(before) == 1:
            found |= set(next(iter(before)))
    return found


def _behind(program: Jaxpr, out: Any, eaters: Mapping[int, tuple[str, ...]]) -> set[tuple[str, ...]]:
    """The products with weights that are found on the way back from a variable, each the end of its way."""
    made: dict[Any, JaxprEqn] = {v: eqn for eqn in program.eqns for v in eqn.outvars}
    found: set[tuple[str, ...]] = set()
    seen, ahead = set(), [out]
    while ahead and len(found) < 2:
        variable = ahead.pop()
        if isinstance(variable, Literal) or variable in seen or variable not in made:
            continue
        seen.add(variable)
        eqn = made[variable]
        if id(eqn) in eaters:
            found.add(eaters[id(eqn)])
        elif eqn.primitive.name in CALLS:
            inside, _ = called(eqn)
            own = _behind(inside, inside.outvars[list(eqn.outvars).index(variable)], eaters)
            found |= own
            ahead += [] if own else eqn.invars
        elif _has_program(eqn):
            found |= MANY
        else:
            ahead += eqn.invars
    return found


def _has_program(eqn: JaxprEqn) -> bool:
    return any(name in eqn.params for name in ("jaxpr", "body_jaxpr", "branches", "call_jaxpr"))
