"""A check: what was found against the most that it may be."""

from typing import Any


def check(value: float, bar: float) -> dict[str, Any]:
    """What was found, the most that it may be, and whether it is no more; a NaN is more.

    >>> check(2e-6, 1e-5)["holds"], check(float("nan"), 1e-5)["holds"]
    (True, False)
    """
    return {"value": float(value), "bar": bar, "holds": bool(value <= bar)}
