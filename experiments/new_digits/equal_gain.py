"""What is forgotten by the time that as much is gained, from a curve of S3's first epoch. No JAX."""

from typing import Any

import numpy as np


def at_equal_gain(curve: dict[str, Any], gained: float) -> list[float | None]:
    """Of each seed, the share of old digits right where this share of the new ones is right for the first time, interpolated between
    measurements; None where it never is.

    >>> at_equal_gain({"new": [[0.0], [0.8], [1.0]], "old": [[1.0], [0.6], [0.2]]}, 0.9)
    [0.4]
    """
    new, old = (np.asarray(curve[group]) for group in ("new", "old"))
    return [_crossed(new[:, seed], old[:, seed], gained) for seed in range(new.shape[1])]


def _crossed(new: np.ndarray, old: np.ndarray, gained: float) -> float | None:
    above = np.flatnonzero(new >= gained)
    if not len(above):
        return None
    at = int(above[0])
    if at == 0:
        return float(old[0])
    share = (gained - new[at - 1]) / (new[at] - new[at - 1])
    return round(float(old[at - 1] + share * (old[at] - old[at - 1])), 12)
