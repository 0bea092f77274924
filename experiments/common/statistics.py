"""Means with their uncertainty. Nothing here imports jax."""

from collections.abc import Callable, Sequence
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


def wilson(right: int, n: int, level: float = 0.95) -> dict[str, Any]:
    """A share with Wilson's interval (Wilson 1927, J. Am. Stat. Assoc. 22, p. 209), which holds for few items and near 0 and 1.

    >>> text(wilson(5, 10), digits=2)
    '0.50 [0.24, 0.76]'
    """
    share, z = right / n, float(stats.norm.ppf((1 + level) / 2))
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    low = 0.0 if right == 0 else float(middle - half)  # exactly, where rounding would go beyond
    return {"mean": share, "low": low, "high": 1.0 if right == n else float(middle + half), "n": n}


def bootstrap(
    statistic: Callable[[np.ndarray], np.ndarray], n: int, level: float = 0.95, resamples: int = 4000, seed: int = 0
) -> dict[str, Any]:
    """A statistic of n items with its percentile interval over resamples (Efron 1979, Ann. Stat. 7, p. 1); no interval for n = 1.

    Args:
      statistic: rows int [..., n] of items -> [...].

    >>> bootstrap(lambda rows: np.array([1.0, 3.0])[rows].mean(-1), 2)
    {'mean': 2.0, 'low': 1.0, 'high': 3.0, 'n': 2}
    """
    mean = float(statistic(np.arange(n)))
    if n < 2:
        return {"mean": mean, "low": None, "high": None, "n": n}
    drawn = statistic(np.random.default_rng(seed).integers(0, n, (resamples, n)))
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return {"mean": mean, "low": float(low), "high": float(high), "n": n}


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
