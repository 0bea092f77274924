"""FLOPs of the matrix products in a program. XLA's own count takes a loop's body once, however often it runs."""

import math
from collections.abc import Callable
from typing import Any

import jax


def of_products(fn: Callable, *args: Any) -> float:
    """2 m n k of every matrix product that `fn(*args)` runs, what the backward pass computes again included.

    Raises:
      ValueError: for a loop whose number of turns only running it tells.

    >>> import jax.numpy as jnp
    >>> of_products(lambda x: jax.lax.map(lambda row: x.T @ row, x), jnp.ones((3, 4)))
    72.0
    """
    return float(_count(jax.make_jaxpr(fn)(*args).jaxpr))


def _count(jaxpr) -> int:
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation) -> int:
    name = equation.primitive.name
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)
    inner = [found.jaxpr if hasattr(found, "jaxpr") else found for found in _programs(equation)]
    counts = [_count(found) for found in inner]
    if name == "while" and any(counts):
        raise ValueError("a while loop runs an unknown number of times; its products cannot be counted.")
    return equation.params["length"] * sum(counts) if name == "scan" else sum(counts)


def _programs(equation) -> list[Any]:
    values = jax.tree.leaves(
        dict(equation.params), is_leaf=lambda value: hasattr(value, "jaxpr") or hasattr(value, "eqns")
    )
    return [value for value in values if hasattr(value, "jaxpr") or hasattr(value, "eqns")]
