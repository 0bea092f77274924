"""What the treatments of S4 cost: time and memory, and how long each takes to losses that matter."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

SHARES = (0.5, 0.75, 0.9)  # of what tuned full fine-tuning saves in the end
AIM = "tuned full"


def lines(curves: Mapping[str, dict[str, Any]]) -> list[str]:
    """One line per treatment, by its label; none where no curves were kept."""
    if not curves:
        return []
    losses = targets(curves[AIM]["losses"]["answers"])
    shares = [f"{100 * share:.0f} %: {loss:.3f}" for share, loss in zip(SHARES, losses, strict=True)]
    found = [
        f"  cost: steps (minutes) until held-out answers are at a loss, given as the share of what {AIM} saves; memory is XLA's own "
        "analysis of the program that trains all members",
        f"  {'treatment':<26} {'s/step':>7} {'MiB':>6} {'members':>7}  " + " ".join(f"{share:<16}" for share in shares),
    ]
    for label, curve in curves.items():
        times = [_time(curve, steps_to(curve, loss)) for loss in losses]
        found.append(
            f"  {label:<26} {curve['seconds_per_step']:>7.3f} {curve['peak_bytes'] / 2**20:>6.0f} {curve['members']:>7}  "
            + " ".join(f"{time:<16}" for time in times).rstrip()
        )
    return found


def targets(losses: Sequence[Sequence[float]]) -> list[float]:
    """The losses at SHARES of the way from the first measurement to the last; `losses` [measurements][seeds]."""
    means = np.mean(losses, axis=1)
    return [float(means[0] - share * (means[0] - means[-1])) for share in SHARES]


def steps_to(curve: dict[str, Any], loss: float) -> int | None:
    """Steps until the seeds' mean loss on held-out answers was first measured at `loss` or below; None for never."""
    at = np.flatnonzero(np.mean(curve["losses"]["answers"], axis=1) <= loss)
    return curve["epochs"][at[0]] * curve["steps_per_epoch"] if len(at) else None


def _time(curve: dict[str, Any], steps: int | None) -> str:
    return "never" if steps is None else f"{steps} ({steps * curve['seconds_per_step'] / 60:.1f})"
