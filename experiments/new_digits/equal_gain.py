"""What is forgotten by the time that as much is gained, from a curve of S3's first epoch. No JAX."""

from typing import Any

import numpy as np

from experiments.common.curves import value_at


def at_equal_gain(curve: dict[str, Any], gained: float) -> list[float | None]:
    """Of each seed, the share of old digits right where this share of the new ones is right for the first time, interpolated between
    measurements; None where it never is.

    >>> at_equal_gain({"new": [[0.0], [0.8], [1.0]], "old": [[1.0], [0.6], [0.2]]}, 0.9)
    [0.4]
    """
    new, old = (np.asarray(curve[group]) for group in ("new", "old"))
    found = [value_at(-new[:, seed], old[:, seed], -gained) for seed in range(new.shape[1])]
    return [None if share is None else round(share, 12) for share in found]
