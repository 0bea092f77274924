"""What was measured as training went.

A curve of losses has "epochs" [measurements] and "losses" name -> [measurements][seeds]; before training first.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np


def between(losses: Sequence[Sequence[float]], shares: Sequence[float]) -> list[float]:
    """The mean losses at these shares of the way from the first measurement to the last.

    >>> between([[4.0, 4.0], [2.0, 2.0]], (0.5, 0.75))
    [3.0, 2.5]
    """
    means = np.mean(losses, axis=1)
    return [float(means[0] - share * (means[0] - means[-1])) for share in shares]


def epoch_at(curve: dict[str, Any], loss: float) -> int | None:
    """The first epoch after which the seeds' mean loss on held-out answers was measured at `loss` or below; None for never."""
    means = np.mean(curve["losses"]["answers"], axis=1)
    return next((epoch for epoch, mean in zip(curve["epochs"], means, strict=True) if mean <= loss), None)


def crossing(falling: np.ndarray, target: float) -> float | None:
    """Where a curve [K] first comes down to the target, in measurements, interpolated; None where it never does.

    >>> crossing(np.array([10, 8, 4, 5]), 5.0)
    1.75
    """
    reached = np.flatnonzero(falling <= target)
    if not len(reached):
        return None
    k = int(reached[0])
    return 0.0 if k == 0 else float(k - 1 + (falling[k - 1] - target) / (falling[k - 1] - falling[k]))


def value_at(falling: np.ndarray, other: np.ndarray, target: float) -> float | None:
    """What another curve [K] is at that point, interpolated; None where it is never reached.

    >>> value_at(np.array([10, 8, 4, 5]), np.array([0, 4, 8, 9]), 5.0)
    7.0
    """
    k = crossing(falling, target)
    return None if k is None else float(np.interp(k, np.arange(len(other)), other))
