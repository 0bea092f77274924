"""Numbers as callers give them: Python's, numpy's, or arrays of JAX without axes."""

import math
import operator
from typing import Any

import jax
import numpy as np


def integer(value: Any) -> int | None:
    """The value as Python's integer; None for what is none: a boolean, a fraction, a float that happens to be whole.

    >>> integer(np.int64(4)), integer(jax.numpy.asarray(4)), integer(True), integer(4.0)
    (4, 4, None, None)
    """
    if isinstance(value, (bool, np.bool_, jax.core.Tracer)) or np.dtype(bool) == getattr(value, "dtype", None):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def number(value: Any) -> int | float | None:
    """The value as a finite number of Python's; None for what is none: a boolean, a string, infinity, NaN, an array with axes.

    >>> number(np.float32(0.5)), number(3), number(True), number(float("nan")), number("2")
    (0.5, 3, None, None, None)
    """
    whole = integer(value)
    if whole is not None:
        return whole
    if isinstance(value, jax.core.Tracer) or not (isinstance(value, float) or _is_floating_scalar(value)):
        return None
    found = float(value)
    return found if math.isfinite(found) else None


def _is_floating_scalar(value: Any) -> bool:
    """Whether it is numpy's or JAX's, of a narrow format that numpy itself does not know too, bfloat16 say."""
    return (
        getattr(value, "ndim", None) == 0
        and hasattr(value, "dtype")
        and jax.dtypes.issubdtype(value.dtype, np.floating)
    )
