"""Means with their uncertainty. Nothing here imports jax."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats


def estimate(values: Sequence[float], level: float = 0.95) -> dict[str, Any]:
    """Mean and two-sided Student interval of confidence `level` over seeds: {"mean", "low", "high", "n"}; no interval for n = 1.

    >>> estimate([1.0, 2.0, 3.0])["mean"]
    2.0
    """
    values = np.asarray(values, float)
    n, mean = len(values), float(values.mean())
    if n < 2:
        return {"mean": mean, "low": None, "high": None, "n": n}
    half = float(stats.t.ppf((1 + level) / 2, n - 1) * values.std(ddof=1) / np.sqrt(n))
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": n}


def reaches(row: dict[str, Any], bars: dict[str, float]) -> bool:
    """Whether the mean of every named estimate in `row` is at its bar or above."""
    return all(row[name]["mean"] >= bar for name, bar in bars.items())


def text(e: dict[str, Any], digits: int = 3, factor: float = 1.0) -> str:
    """`0.951 [0.949, 0.953]`.

    >>> text({"mean": 0.5, "low": 0.4, "high": 0.6, "n": 3}, digits=1, factor=100)
    '50.0 [40.0, 60.0]'
    """
    mean = f"{factor * e['mean']:.{digits}f}"
    if e["low"] is None:
        return mean
    return f"{mean} [{factor * e['low']:.{digits}f}, {factor * e['high']:.{digits}f}]"
