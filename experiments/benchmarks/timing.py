"""Medians of alternating measurements, so that a busy moment hits all rivals alike."""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def seconds(work: Callable[[], Any]) -> float:
    """The wall time of one call, its result awaited."""
    start = time.perf_counter()
    jax.block_until_ready(work())
    return time.perf_counter() - start


def alternate(rivals: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """`rounds` timings of each, taken in turns, after one call of each to warm up."""
    for work in rivals.values():
        seconds(work)
    times: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(rounds):
        for name, work in rivals.items():
            times[name].append(seconds(work))
    return times


def summarise(times: list[float], per: int = 1) -> dict[str, float]:
    """Median, quartiles and number of timings, in milliseconds per unit of work."""
    low, median, high = np.percentile(np.asarray(times) / per * 1e3, [25, 50, 75])
    return {"median_ms": float(median), "quartile_low_ms": float(low), "quartile_high_ms": float(high), "n": len(times)}
