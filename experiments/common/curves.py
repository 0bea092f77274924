"""Losses as training went: a curve has "epochs" [measurements] and "losses" name -> [measurements][seeds]; before training first."""

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
