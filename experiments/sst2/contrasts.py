"""Tests over seeds and sentences at once: what is right, [U, I], weighed and compared. Nothing here imports jax.

A number of a run, the slope of its accuracy in log2 of the rank say, is a weighed sum of what is right at each rank; so it has a value a seed and a
sentence, and both are a sample (`ledger.inference.over_items`). Values are in points: percent of the sentences.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.common.items import of_row
from experiments.common.statistics import estimate, text
from experiments.ledger.inference import Fact, over_items, turned

POINTS = 100.0
POWERED = 1.96 + 0.84  # standard errors between 0 and what a test at 5 % finds in 80 % of the cases


def above(said: str, values: np.ndarray, bar: float = 0.0) -> Fact:
    """Whether the mean of `values` [U, I] exceeds the bar, in points; what the seeds alone say is told beside."""
    fact = over_items(said, values, np.zeros_like(values), bar=bar, factor=POINTS)
    return dataclasses.replace(fact, shown=f"{fact.shown} (seeds alone {_seeds(values)})")


def below(said: str, values: np.ndarray, bar: float = 0.0) -> Fact:
    """Whether the mean lies below the bar; as `above`."""
    return turned(above(said, values, bar))


def difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a - b over the seeds that both have."""
    n = min(len(a), len(b))
    return a[:n] - b[:n]


def shape(ranks: Sequence[int], right: Sequence[np.ndarray], what: str) -> np.ndarray:
    """Of accuracy in log2 of the rank, [U, I]: the "slope" of a line, or the "curvature" (the square's coefficient) or "end" (the slope at
    the largest rank) of a parabola, by least squares.

    >>> right = [np.full((1, 1), value) for value in (0.0, 3.0, 4.0)]
    >>> [round(float(shape((1, 2, 4), right, what)[0, 0]), 6) for what in ("slope", "curvature", "end")]
    [2.0, -1.0, 0.0]
    """
    x = np.log2(np.asarray(ranks, float))
    degree, place = {"slope": (1, 1), "curvature": (2, 2), "end": (2, 1)}[what]
    weights = np.linalg.pinv(np.vander(x - x[-1], degree + 1, increasing=True))[
        place
    ]  # the end is 0: there the slope is x's coefficient
    return np.einsum("r,rui->ui", weights, np.stack(right))


def row_of(summary: Mapping[str, Any], regime: str, rank: int | None = None) -> Mapping[str, Any]:
    """The row of a regime and rank."""
    return next(row for row in summary["rows"] if row["regime"] == regime and row["rank"] == rank)


def right(summary: Mapping[str, Any], regime: str, rank: int | None = None, *, kept: str = "right") -> np.ndarray:
    """[U, I] of a row."""
    return of_row(row_of(summary, regime, rank), summary["scored"], kept)


def lora(summary: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The rows of LoRA on query and value, by rank."""
    return [row for row in summary["rows"] if row["regime"] == "LoRA"]


def needed_sentences(values: np.ndarray, points: float = 1.0) -> int:
    """So many sentences tell a difference of `points` from 0 in 80 % of the cases, with any number of seeds.

    >>> needed_sentences(np.array([[0.1, -0.1, 0.1, -0.1]]), 1.0) > 900
    True
    """
    spread = POINTS * values.mean(axis=0).std(ddof=1)
    return int(np.ceil((POWERED * spread / points) ** 2))


def errors(values: np.ndarray) -> str:
    """The two parts of the standard error, in points."""
    of_items = POINTS * values.mean(axis=0).std(ddof=1) / np.sqrt(values.shape[1])
    if len(values) < 2:
        return f"standard error {of_items:.2f} points from sentences"
    of_seeds = POINTS * values.mean(axis=1).std(ddof=1) / np.sqrt(values.shape[0])
    return f"standard error {of_items:.2f} points from sentences, {of_seeds:.2f} from seeds"


def _seeds(values: np.ndarray) -> str:
    return text(estimate(values.mean(axis=1).tolist()), 2, POINTS)
