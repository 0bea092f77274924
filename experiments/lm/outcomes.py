"""What groups of S4 come to: rows by treatment, rank and epoch; tuning lines; the gap between LoRA and full fine-tuning."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.common.errors import UserError
from experiments.common.statistics import estimate
from experiments.lm import judge
from experiments.lm.training import Outcome

SHOWN = 20  # prompts whose outputs people read


def base_row(data: str, losses: dict[str, float], discrimination: float, rates: dict[str, float]) -> dict[str, Any]:
    """The base as a row: one model, no seeds."""
    return {
        "name": "base", "data": data, "rank": 0, "rate": None, "batch": None, "epoch": 0, "steps": 0, "parameters": 0,
        "seconds_per_step": None, "losses": {name: [loss] for name, loss in losses.items()},
        "discrimination": [discrimination], "rates": {kind: [share] for kind, share in rates.items()},
    }  # fmt: skip


def rows(outcome: Outcome, name: str, data: str, questions: Sequence[str], batch: int) -> list[dict[str, Any]]:
    """One row per rank and judged measurement; lists are over seeds.

    Raises:
      UserError: for training that diverged.
    """
    if not all(np.isfinite(losses).all() for losses in outcome.losses.values()):
        raise UserError(f"{data}, {name}: training diverged; give lower learning rates.")
    found = []
    for rank, of_rank in _by_rank(outcome).items():
        for at, epoch in enumerate(outcome.epochs[1:], 1):
            judged = outcome.judged[at - 1]
            if not judged:
                continue
            rates = [judge.rates(questions, judged["outputs"][i].tolist()) for i in of_rank]
            found.append({
                "name": name, "data": data, "rank": rank, "rate": outcome.members[of_rank[0]].learning_rate, "batch": batch,
                "epoch": epoch, "steps": epoch * outcome.steps_per_epoch, "parameters": outcome.parameters[of_rank[0]],
                "seconds_per_step": outcome.seconds_per_step,
                "losses": {kind: values[at, of_rank].tolist() for kind, values in outcome.losses.items()},
                "discrimination": judged["discrimination"][of_rank].tolist(),
                "rates": {kind: [rate[kind] for rate in rates] for kind in rates[0]},
            })  # fmt: skip
    return found


def curves(outcome: Outcome, name: str, data: str) -> list[dict[str, Any]]:
    """One line per rank: losses name -> [measurements][seeds], the one before training first, and what training cost."""
    found = []
    for rank, of_rank in _by_rank(outcome).items():
        found.append({
            "name": name, "data": data, "rank": rank, "epochs": outcome.epochs, "steps_per_epoch": outcome.steps_per_epoch,
            "seconds_per_step": outcome.seconds_per_step, "peak_bytes": outcome.peak_bytes, "members": len(outcome.members),
            "losses": {kind: values[:, of_rank].tolist() for kind, values in outcome.losses.items()},
        })  # fmt: skip
    return found


def _by_rank(outcome: Outcome) -> dict[int, list[int]]:
    """rank -> positions of its members."""
    found: dict[int, list[int]] = {}
    for position, member in enumerate(outcome.members):
        found.setdefault(member.rank, []).append(position)
    return found


def tuning_line(
    size: str, data: str, regime: str, rank: int, rates: Sequence[float], losses: list[float] | None
) -> dict[str, Any]:
    """What the tuning split said; a loss that is not finite is never the best. None: it was not asked about a single rate.

    Raises:
      UserError: where none is finite.
    """
    if losses is None:
        of = {"size": size, "data": data, "regime": regime, "rank": rank}
        return {**of, "best": rates[0], "at_edge": False, "losses": {}}
    finite = [loss if np.isfinite(loss) else np.inf for loss in losses]
    best = int(np.argmin(finite))
    if not np.isfinite(finite[best]):
        raise UserError(f"{regime} on {data} at {size}: training diverged at every learning rate of {list(rates)}.")
    return {
        "size": size, "data": data, "regime": regime, "rank": rank, "best": rates[best],
        "at_edge": best in (0, len(rates) - 1),
        "losses": {f"{rate:g}": None if loss == np.inf else loss for rate, loss in zip(rates, finite, strict=True)},
    }  # fmt: skip


def gap(size: str, rank: int, lora: Outcome, full: Outcome, parameters: int, bits: float) -> dict[str, Any]:
    """LoRA minus full on held-out answers at the end, in bits per byte, seed by seed: they share a seed's batches."""
    ours, theirs = (bits * outcome.losses["answers"][-1] for outcome in (lora, full))
    return {
        "size": size, "rank": rank, "base_parameters": parameters, "parameters": lora.parameters[0],
        "lora": ours.tolist(), "full": theirs.tolist(), "base": float(bits * full.losses["answers"][0, 0]),
        "gap": estimate((ours - theirs).tolist()),
    }  # fmt: skip
