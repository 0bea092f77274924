"""A check: what was found against the most that it may be."""

import math
from typing import Any


def check(value: float, bar: float) -> dict[str, Any]:
    """What was found, the most that it may be, and whether it is no more. What is no number is more, and is kept as a word: JSON has none for it.

    >>> check(2e-6, 1e-5)["holds"], check(float("nan"), 1e-5)
    (True, {'value': 'nan', 'bar': 1e-05, 'holds': False})
    """
    value = float(value)
    return {"value": value if math.isfinite(value) else str(value), "bar": bar, "holds": bool(value <= bar)}
