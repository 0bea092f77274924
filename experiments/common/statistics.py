"""Means with their uncertainty. Nothing here imports jax."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import stats

MOST_DRAWN = 2**22  # items of resamples held at once, 32 MiB


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


def with_outcomes(**metrics: Sequence[float]) -> dict[str, Any]:
    """What a row of a summary says of metrics with one number a seed: estimates under their names, and under "by_seed" what they are of.

    >>> with_outcomes(error=[1.0, 3.0])["by_seed"], with_outcomes(error=[1.0, 3.0])["error"]["mean"]
    ({'error': [1.0, 3.0]}, 2.0)
    """
    by_seed = {name: np.asarray(values).tolist() for name, values in metrics.items()}
    return {**{name: estimate(values) for name, values in by_seed.items()}, "by_seed": by_seed}


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


def paired(before: np.ndarray, after: np.ndarray, level: float = 0.95) -> dict[str, Any]:
    """Share of `after` less share of `before`, of the same items (bool [N] each), with Newcombe's interval (1998, Stat. Med. 17, p. 2635, method 10).

    It holds where a bootstrap's has no width: where no item changes, or every one does.

    >>> nothing = np.zeros(18, bool)
    >>> text(paired(nothing, nothing), digits=2)
    '0.00 [-0.18, 0.18]'
    """
    old, new = wilson(int(before.sum()), len(before), level), wilson(int(after.sum()), len(after), level)
    correlation = _correlation(before, after)

    def half(one: float, other: float) -> float:
        return float(np.sqrt(one**2 - 2 * correlation * one * other + other**2))

    mean = new["mean"] - old["mean"]
    low = mean - half(new["mean"] - new["low"], old["high"] - old["mean"])
    high = mean + half(old["mean"] - old["low"], new["high"] - new["mean"])
    return {"mean": mean, "low": low, "high": high, "n": len(before)}


def _correlation(before: np.ndarray, after: np.ndarray) -> float:
    """Of two paired answers, made smaller where it is positive, as Newcombe does."""
    both, neither = int((before & after).sum()), int((~before & ~after).sum())
    gained, lost = int((after & ~before).sum()), int((before & ~after).sum())
    product = (both + gained) * (neither + lost) * (both + lost) * (neither + gained)
    above = both * neither - gained * lost
    return 0.0 if not product else (max(above - len(before) / 2, 0.0) if above > 0 else above) / product**0.5


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
    rng, at_once = np.random.default_rng(seed), max(1, MOST_DRAWN // n)
    parts = [min(at_once, resamples - start) for start in range(0, resamples, at_once)]
    drawn = np.concatenate([statistic(rng.integers(0, n, (part, n))) for part in parts])
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
