"""Data by rows: do all arrays have as many, and do indices speak of rows that are there? JAX would clamp them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lora_jax.errors import TreeError
from lora_jax.intake import is_known
from lora_jax.scalars import integer


def count(data: Any, where: str) -> int:
    """The rows that all leaves of `data` [N, ...] have.

    Raises:
      TreeError: where they have different numbers, or there are none.

    >>> count({"x": np.ones((3, 2)), "y": np.ones(3)}, "make_evaluation")
    3
    """
    shapes = {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.shape(leaf)
        for path, leaf in jax.tree_util.tree_flatten_with_path(data)[0]
    }
    sizes = {shape[0] if shape else None for shape in shapes.values()}
    if len(sizes) != 1 or not all(sizes):
        told = ", ".join(f"{name or 'it'} {shape}" for name, shape in list(shapes.items())[:4]) or "nothing"
        raise TreeError(f"{where}: the arrays of the data must have the same number of rows, 1 or more: {told}.")
    return sizes.pop()


def require_order(order: Any, data: Any, where: str) -> None:
    """Raises TreeError where an order of rows is none of this data; what is traced is not looked at.

    >>> require_order(np.array([[0, 2]]), np.ones(3), "make_epoch")
    """
    rows = count(data, where)
    if not (hasattr(order, "dtype") and jnp.issubdtype(order.dtype, jnp.integer)):
        raise TreeError(
            f"{where}: the order is {getattr(order, 'dtype', type(order).__name__)}; it must be integers, the rows of each batch."
        )
    if not is_known(order) or not order.size:
        return
    with jax.ensure_compile_time_eval():
        least, most = int(order.min()), int(order.max())
    if least < 0 or most >= rows:
        raise TreeError(
            f"{where}: the order has the row {least if least < 0 else most}, and the data has 0 to {rows - 1}."
        )


def positive(name: str, value: Any) -> int:
    """An integer of at least 1. Raises TreeError, by `name`, for another.

    >>> positive("batch_size", np.int64(4))
    4
    """
    found = integer(value)
    if found is None or found < 1:
        raise TreeError(f"{name} is {value!r}; it must be an integer of at least 1.")
    return found
