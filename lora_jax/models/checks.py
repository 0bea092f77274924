"""Fields of a config that cannot be, each refused by its name."""

import math
from typing import Any

from lora_jax.errors import ModelError


def require_size(config: str, name: str, value: Any) -> None:
    """Raises ModelError for what is no integer of 1 or more; `config` is whose field `name` is."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ModelError(f"{config}: {name} is {value!r}; it must be an integer of 1 or more.")


def require_positive(config: str, name: str, value: Any) -> None:
    """Raises ModelError for what is no finite number above 0."""
    if not (is_number(value) and value > 0):
        raise ModelError(f"{config}: {name} is {value!r}; it must be a positive number.")


def is_number(value: Any) -> bool:
    """Whether it is a finite number; booleans are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
