"""Learning rates, seeds and the like as callers give them to a sweep: checked, and Python's own numbers."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from lora_jax.config import as_alpha, as_rank
from lora_jax.errors import ConfigError
from lora_jax.scalars import integer, number

SEEDS = 2**32  # a larger one is the same key as a smaller


def rank_of(value: Any) -> int:
    """A rank. Raises ConfigError for what is none.

    >>> rank_of(np.int64(4))
    4
    """
    return as_rank("ranks", value)


def alpha_of(value: Any) -> int | float | None:
    """An alpha, or None. Raises ConfigError for what is none.

    >>> alpha_of(None), alpha_of(16)
    (None, 16)
    """
    return None if value is None else as_alpha("alphas", value)


def rate_of(value: Any, *, zero: bool = False) -> float:
    """A learning rate. Raises ConfigError for what is not positive, or so small or large that float32 loses it; 0 only where `zero` is true.

    >>> rate_of(1e-3)
    0.001
    """
    rate = number(value)
    if rate is None or not (1e-30 < rate < 3e38 or (zero and rate == 0)):
        raise ConfigError(f"learning_rates has {value!r}; a learning rate is a positive number, for example 1e-3.")
    return float(rate)


def seed_of(value: Any) -> int:
    """A seed. Raises ConfigError for what is none, or would be the same key as another.

    >>> seed_of(np.uint8(3))
    3
    """
    seed = integer(value)
    if seed is None or not 0 <= seed < SEEDS:
        raise ConfigError(f"seeds has {value!r}; a seed is an integer from 0 to {SEEDS - 1}.")
    return seed


def each(name: str, values: Any, of: Callable) -> list[Any]:
    """Every value by `of`; none of them twice.

    Raises:
      ConfigError: for what is no sequence, an empty one, or one with a value twice.

    >>> each("seeds", range(3), seed_of)
    [0, 1, 2]
    """
    if not isinstance(values, Iterable) or isinstance(values, (str, bytes, dict)) or np.ndim(values) == 0:
        raise ConfigError(f"{name} is {values!r}; give a sequence, ({values!r},) say.")
    found = [of(value) for value in values]
    if not found:
        raise ConfigError(f"{name} is empty, so that the sweep would have no members.")
    in_float32 = [
        value if value is None else np.float32(value) if isinstance(value, float) else value for value in found
    ]
    twice = next((value for k, value in enumerate(found) if in_float32[k] in in_float32[:k]), None)
    if twice is not None or found.count(None) > 1:
        raise ConfigError(f"{name} has {twice!r} twice, so that two members would be the same; give each once.")
    return found
