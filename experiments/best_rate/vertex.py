"""The best rate between those that were tried, and how it moves with the rank. Nothing here imports jax."""

from collections.abc import Sequence

import numpy as np

AROUND = 2  # rates on either side of the lowest loss that the parabola goes through


def best(powers: Sequence[int], losses: Sequence[float]) -> tuple[float, bool]:
    """(where the loss is least, in powers of the step; whether that is at the edge of what was tried).

    A parabola by least squares through the lowest loss and its neighbours, two on either side, where they are finite; its vertex, kept
    between the nearest neighbours. A rate is at the edge where it has no finite neighbour on both sides.

    >>> best([0, 1, 2, 3, 4], [4.0, 1.0, 0.0, 1.0, 4.0])
    (2.0, False)
    >>> best([0, 1, 2], [1.0, 2.0, 3.0])
    (0.0, True)
    """
    powers, losses = np.asarray(powers, float), np.asarray(losses, float)
    finite = np.isfinite(losses)
    lowest = least(losses)
    if lowest in (0, len(losses) - 1) or not finite[lowest - 1]:
        return float(powers[lowest]), True
    near = [i for i in range(max(0, lowest - AROUND), min(len(losses), lowest + AROUND + 1)) if finite[i]]
    near = [i for i in near if losses[i] <= _ceiling(losses, lowest)]
    if len(near) < 3 or not finite[lowest + 1]:
        return float(powers[lowest]), False
    square, line, _ = np.polyfit(powers[near] - powers[lowest], losses[near], 2)
    shift = -line / (2 * square) if square > 0 else 0.0
    return float(powers[lowest] + np.clip(shift, -1.0, 1.0)), False


def is_flat(losses: Sequence[float]) -> bool:
    """Whether no rate can be called the best: within three steps on either side no loss is 5 % above the lowest.

    >>> is_flat([3.0, 2.0, 1.0, 1.01, 1.02]), is_flat([1.02, 1.0, 1.01, 1.02, 1.03])
    (False, True)
    """
    losses = np.asarray(losses, float)
    lowest = int(np.where(np.isfinite(losses), losses, np.inf).argmin())
    near = losses[max(0, lowest - 3) : lowest + 4]
    return not (near > 1.05 * losses[lowest]).any()


def _ceiling(losses: np.ndarray, lowest: int) -> float:
    """Losses above it are no part of the bowl: a run that diverges at the next rate would pull the vertex away from it."""
    beside = max(losses[lowest - 1], losses[lowest + 1]) if np.isfinite(losses[lowest + 1]) else losses[lowest - 1]
    return losses[lowest] + 4 * max(beside - losses[lowest], 1e-12)


def least(losses: Sequence[float]) -> int:
    """Where the least of those losses is that are finite.

    >>> least([float("nan"), 2.0, 1.0])
    2
    """
    losses = np.asarray(losses, float)
    return int(np.where(np.isfinite(losses), losses, np.inf).argmin())


def exponent(ranks: Sequence[int], powers: Sequence[float], step: float) -> float:
    """e of the least-squares line rate = rate_1 rank^e, from the best power of `step` at each rank.

    >>> round(exponent([1, 2, 4], [0.0, -1.0, -2.0], step=2.0), 6)
    -1.0
    """
    return float(np.polyfit(np.log(ranks), np.asarray(powers) * np.log(step), 1)[0])
