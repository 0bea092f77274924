"""What the treatments of S4 cost: time and memory, and how long each takes to losses that matter."""

from collections.abc import Mapping
from typing import Any

from experiments.common.curves import between, epoch_at

SHARES = (0.5, 0.75, 0.9)  # of what tuned full fine-tuning saves in the end
AIM = "tuned full"


def lines(curves: Mapping[str, dict[str, Any]]) -> list[str]:
    """One line per treatment, by its label; none where no curves were kept."""
    if not curves:
        return []
    losses = between(curves[AIM]["losses"]["answers"], SHARES)
    shares = [f"{100 * share:.0f} %: {loss:.3f}" for share, loss in zip(SHARES, losses, strict=True)]
    found = [
        f"  cost: steps (minutes) until held-out answers are at a loss, given as the share of what {AIM} saves; memory is XLA's own "
        "analysis of the program that trains all members",
        f"  {'treatment':<26} {'s/step':>7} {'MiB':>6} {'members':>7}  " + " ".join(f"{share:<16}" for share in shares),
    ]
    for label, curve in curves.items():
        times = [_time(curve, epoch_at(curve, loss)) for loss in losses]
        found.append(
            f"  {label:<26} {curve['seconds_per_step']:>7.3f} {curve['peak_bytes'] / 2**20:>6.0f} {curve['members']:>7}  "
            + " ".join(f"{time:<16}" for time in times).rstrip()
        )
    return found


def _time(curve: dict[str, Any], epoch: int | None) -> str:
    if epoch is None:
        return "never"
    steps = epoch * curve["steps_per_epoch"]
    return f"{steps} ({steps * curve['seconds_per_step'] / 60:.1f})"
