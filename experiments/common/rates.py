"""A learning rate from a range that is widened for as long as its best is at an edge."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np


def searched(
    rates: Sequence[float], losses_at: Callable[[Sequence[float]], Sequence[float]], widenings: int
) -> tuple[list[float], list[float]]:
    """(rates, ascending; their losses, inf where training diverged), with up to `widenings` more than asked for.

    A range is widened by its own last ratio, to one digit; one that diverged everywhere downwards.

    >>> searched((1e-3, 3e-3), lambda rates: [abs(rate - 3e-2) for rate in rates], 3)[0]
    [0.001, 0.003, 0.009, 0.03, 0.1]
    """
    found = {rate: _finite(loss) for rate, loss in zip(sorted(rates), losses_at(sorted(rates)), strict=True)}
    for _ in range(widenings):
        asked = _beyond(found)
        if asked is None:
            break
        found[asked] = _finite(losses_at([asked])[0])
    return sorted(found), [found[rate] for rate in sorted(found)]


def on_ladder(rate: float, rungs: int = 0) -> float:
    """The rate so many rungs from this one, on a ladder of four to a decade, x1.8: 1, 1.8, 3.2 and 5.6 times a power of ten.

    >>> [on_ladder(1e-3, rungs) for rungs in (-1, 0, 1, 2, 3, 4)]
    [0.00056, 0.001, 0.0018, 0.0032, 0.0056, 0.01]
    """
    return float(f"{10 ** ((round(4 * np.log10(rate)) + rungs) / 4):.2g}")


def outwards(losses: Mapping[float, float]) -> int:
    """-1 or 1 where the rate of the least loss is the lowest or highest that was tried; 0 where it has neighbours on both sides.

    >>> outwards({1e-3: 2.0, 3e-3: 1.0}), outwards({1e-3: 2.0, 3e-3: 1.0, 1e-2: 2.0})
    (1, 0)
    """
    best = min(sorted(losses), key=losses.__getitem__)
    return -1 if best == min(losses) else int(best == max(losses))


def _finite(loss: float) -> float:
    return float(loss) if np.isfinite(loss) else float("inf")


def _beyond(found: dict[float, float]) -> float | None:
    """The next rate outwards of the best; None where that has neighbours on both sides."""
    rates, side = sorted(found), outwards(found)
    if not side:
        return None
    outer, inner = (rates[0], rates[1]) if side < 0 else (rates[-1], rates[-2])
    return float(f"{outer**2 / inner:.1g}")
