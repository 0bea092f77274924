"""A learning rate off a noisy curve: several runs a rate, a range that widens while its best is at an edge, and the vertex of a parabola.

Scores are higher where better, accuracies unless `broken` says otherwise; None is a rate at which training diverged. Nothing here imports jax.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.common.errors import UserError

REACH = 2  # rates on either side of the best that the parabola is laid through: a factor of 10 in all, where rates are 1.8 apart
BROKEN = 0.05  # an accuracy so far below the best is of training that broke, and would pull the vertex away from there
BROKEN_NATS = 0.2  # the same of nats a token

Scores = dict[float, float | None]  # rate -> its mean score


@dataclasses.dataclass(frozen=True)
class Choice:
    """`best` is what is taken; `at_edge` whether it lies at an end of what was tried; `by` says how it was found."""

    best: float
    at_edge: bool
    by: str


def vertex(scores: Mapping[float, float | None], broken: float = BROKEN) -> float | None:
    """Where the parabola through the scores around the best, in log rate, has its top; None where it has none, or fewer than 3 are there.

    >>> scores = {rate: 0.8 - 0.01 * np.log(rate / 2e-3) ** 2 for rate in (5e-4, 1e-3, 2e-3, 4e-3)}
    >>> round(vertex(scores), 6)
    0.002
    """
    rates = sorted(rate for rate, score in scores.items() if score is not None)
    if len(rates) < 3:
        return None
    best = rates.index(max(rates, key=lambda rate: scores[rate]))
    near = [
        rate for rate in rates[max(0, best - REACH) : best + REACH + 1] if scores[rate] > scores[rates[best]] - broken
    ]
    if len(near) < 3:
        return None
    middle = np.log(near[0])
    a, b, _ = np.polyfit(np.log(near) - middle, [scores[rate] for rate in near], 2)
    return None if a >= 0 else float(np.exp(middle - b / (2 * a)))


def chosen(scores: Mapping[float, float | None], broken: float = BROKEN) -> Choice:
    """The vertex where it lies within what was tried, else the best that was tried. Raises ValueError where all diverged.

    >>> chosen({1e-3: 0.80, 1.8e-3: 0.82, 3.2e-3: 0.80}).best, chosen({1e-3: 0.8, 3e-3: 0.9})
    (0.0018, Choice(best=0.003, at_edge=True, by='the best tried'))
    """
    good = {rate: score for rate, score in scores.items() if score is not None}
    if not good:
        raise ValueError("training diverged at every learning rate")
    top = vertex(scores, broken)
    if top is not None and beyond(scores, broken) == 0:
        return Choice(float(f"{top:.2g}"), False, "a parabola's vertex")
    best = max(good, key=lambda rate: good[rate])
    return Choice(best, best in (min(scores), max(scores)) and len(scores) > 1, "the best tried")


def beyond(scores: Mapping[float, float | None], broken: float = BROKEN) -> int:
    """-1 or 1 where a better rate may lie below or above what was tried, by the best score or by the vertex; 0 where neither says so.

    A neighbour at which training diverged bounds a range, too; one that diverged everywhere is widened downwards.
    """
    good = {rate: score for rate, score in scores.items() if score is not None}
    if not good:
        return -1
    best, top = max(good, key=lambda rate: good[rate]), vertex(scores, broken)
    if best == min(scores) or (top is not None and top < min(good)):
        return -1
    return 1 if best == max(scores) or (top is not None and top > max(good) and max(good) == max(scores)) else 0


def widened(rates: Sequence[float], side: int) -> float:
    """The next rate outwards, by the ratio of the two at that end, to two digits.

    >>> widened((1e-3, 1.8e-3), 1), widened((1e-3, 1.8e-3), -1)
    (0.0032, 0.00056)
    """
    ends = sorted(rates)
    outer, inner = (ends[0], ends[1]) if side < 0 else (ends[-1], ends[-2])
    return float(f"{outer * outer / inner:.2g}")


def search(
    ranks: Sequence[int],
    rates: Sequence[float],
    scored: Callable[[int, list[tuple[int, float]]], list[list[float | None]]],
    widenings: int,
    regime: str,
    broken: float = BROKEN,
) -> list[dict[str, Any]]:
    """One line a rank, as a summary keeps it. Every round's runs are asked for at once.

    Args:
      scored: (number of the round, its cells of rank and rate) -> the scores of each cell's runs, None for one that diverged.
      widenings: rounds after the first, in which each rank whose range is too narrow gets one rate more.
      broken: how far below the best a score is of training that broke.

    Raises:
      UserError: where all of a rank's runs diverged.
    """
    runs: dict[int, dict[float, list[float | None]]] = {rank: {} for rank in ranks}
    asked = [(rank, rate) for rank in ranks for rate in rates]
    for turn in range(widenings + 1):
        for (rank, rate), scores in zip(asked, scored(turn, asked), strict=True):
            runs[rank][rate] = scores
        sides = {rank: beyond(means(of_rank), broken) for rank, of_rank in runs.items()}
        asked = [(rank, widened(list(runs[rank]), side)) for rank, side in sides.items() if side]
        if not asked:
            break
    return [_line(rank, of_rank, regime, broken) for rank, of_rank in runs.items()]


def means(runs: Mapping[float, Sequence[float | None]]) -> Scores:
    """rate -> mean score over its runs; None where one diverged."""
    return {rate: None if None in scores else float(np.mean(scores)) for rate, scores in sorted(runs.items())}


def _line(rank: int, runs: Mapping[float, list[float | None]], regime: str, broken: float) -> dict[str, Any]:
    scores = means(runs)
    try:
        choice = chosen(scores, broken)
    except ValueError:
        raise UserError(f"training diverged at every learning rate of {regime}; give lower --learning_rates.") from None
    return {
        "rank": rank,
        **dataclasses.asdict(choice),
        "accuracy": {str(rate): score for rate, score in scores.items()},
        "runs": {str(rate): runs[rate] for rate in scores},
    }


def untuned(rank: int, rate: float) -> dict[str, Any]:
    """The same of a rate that has no rival."""
    return {"rank": rank, "best": rate, "at_edge": False, "by": "given", "accuracy": {}, "runs": {}}


def shared(lines: Sequence[Mapping[str, Any]]) -> Choice:
    """The rate of the best mean over ranks, out of those at which every rank was tried. Raises ValueError where some rank diverged at each."""
    common = set.intersection(*({float(rate) for rate in line["accuracy"]} for line in lines))
    of_rate = {rate: [line["accuracy"][str(rate)] for line in lines] for rate in sorted(common)}
    return chosen(means(of_rate))
