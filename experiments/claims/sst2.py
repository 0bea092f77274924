"""S2.4 to S2.7, from the summary of S2, part II. Differences are taken seed by seed: regimes share a seed's batches."""

from typing import Any

import numpy as np

from experiments.claims.ledger import FAILS, HOLDS, Claim, verdict
from experiments.common.statistics import estimate, text

NEAR = 0.02  # of accuracy: "near-optimal", the distance between the bars set for full and for LoRA
SAME = 0.01  # "saturates": no rank beyond gains more


def claims(summary: dict[str, Any], command: str) -> list[Claim]:
    return [
        _saturates(summary, command),
        _no_u_shape(summary, command),
        _pareto(summary, command),
        _dynamics(summary, command),
    ]


def _row(summary: dict[str, Any], regime: str, rank: int | None = None) -> dict[str, Any]:
    return next(row for row in summary["rows"] if row["regime"] == regime and row["rank"] == rank)


def _ranks(summary: dict[str, Any]) -> list[int]:
    return [row["rank"] for row in summary["rows"] if row["regime"] == "LoRA"]


def _gain(a: list[float], b: list[float]) -> dict[str, Any]:
    """b - a over seeds."""
    return estimate(np.subtract(b, a).tolist())


def _above(e: dict[str, Any], bar: float = 0.0) -> bool:
    return e["low"] is not None and e["low"] > bar


def _below(e: dict[str, Any], bar: float) -> bool:
    return e["high"] is not None and e["high"] < bar


def _points(e: dict[str, Any]) -> str:
    return f"{text(e, 2, 100)} points"


def _saturates(summary, command: str) -> Claim:
    ranks = _ranks(summary)
    middle = min(ranks, key=lambda rank: abs(rank - 8))
    of = {rank: _row(summary, "LoRA", rank)["accuracies"] for rank in ranks}
    early, late = _gain(of[ranks[0]], of[middle]), _gain(of[middle], of[ranks[-1]])
    rises, flat = _above(early), _below(late, SAME)
    reason = (
        f"{'a gain' if rises else 'no gain that the interval separates from 0'} up to r = {middle}, "
        f"{'less than' if flat else 'possibly more than'} {100 * SAME:.0f} point beyond"
    )
    return Claim(
        "S2.4", "accuracy improves rapidly from r = 1 to about 8, saturates beyond", "a figure",
        f"r = {ranks[0]} to {middle}: {_points(early)}; {middle} to {ranks[-1]}: {_points(late)}",
        early["n"], verdict(rises and flat), reason, command,
    )  # fmt: skip


def _no_u_shape(summary, command: str) -> Claim:
    scaling = summary["scaling"]
    rates = scaling["rates"]

    def fall(rule: str, rate: float) -> dict[str, Any]:
        """What the largest rank loses against the best one."""
        rows = [row for row in scaling["rows"] if (row["rule"], row["learning_rate"]) == (rule, rate)]
        best = max(rows, key=lambda row: np.mean(row["accuracies"]))
        return _gain(rows[-1]["accuracies"], best["accuracies"])

    constant = {rate: fall("alpha = c r", rate) for rate in rates}
    fixed = {rate: fall("alpha fixed", rate) for rate in rates}
    tuned, slow = rates[1], rates[0]
    gone = not any(_above(e) for e in constant.values())
    appears = [rate for rate, e in fixed.items() if _above(e)]
    reason = (
        f"with fixed alpha the largest rank falls behind at {len(appears)} of {len(rates)} learning rates"
        f"{' (' + ', '.join(f'{rate:.2g}' for rate in appears) + ')' if appears else ''}; a scale is a learning rate in disguise"
    )
    return Claim(
        "S2.5", "no U-shaped degradation at high rank once alpha = c r; one appears in early runs with fixed alpha", "a figure",
        f"what the largest rank loses to the best: alpha = c r {_points(constant[tuned])} at the tuned rate, "
        f"{_points(constant[slow])} at a third of it; alpha fixed {_points(fixed[tuned])} and {_points(fixed[slow])}",
        constant[tuned]["n"], (HOLDS if appears else "holds in part: no U-shape under either rule") if gone else FAILS, reason, command,
    )  # fmt: skip


def _pareto(summary, command: str) -> Claim:
    near = [rank for rank in (8, 16) if rank in _ranks(summary)]
    head, full = _row(summary, "head only"), _row(summary, "full")
    lora = {rank: _row(summary, "LoRA", rank) for rank in near}
    distance = {rank: _gain(full["accuracies"], row["accuracies"]) for rank, row in lora.items()}
    underfits = all(_above(_gain(head["accuracies"], row["accuracies"])) for row in [*lora.values(), full])
    close = all(_above(e, -NEAR) for e in distance.values())
    small = all(row["share"] < 0.01 for row in lora.values())
    best = all(
        row["accuracy"]["mean"] <= full["accuracy"]["mean"]
        for row in summary["rows"]
        if row["regime"] != "LoRA all linear"
    )
    facts = {
        "head-only is below": underfits,
        "full is best": best,
        f"LoRA is within {100 * NEAR:.0f} points of full": close,
        "under 1 % trains": small,
    }
    shown = "; ".join(
        f"LoRA r = {rank} minus full {_points(distance[rank])}, {100 * lora[rank]['share']:.2f} % trains"
        for rank in near
    )
    return Claim(
        "S2.6", "head-only underfits; full is best; LoRA with r in [8, 16] is near-optimal with < 1 % trainable parameters", "a figure",
        f"head only {text(head['accuracy'], 2, 100)} %, full {text(full['accuracy'], 2, 100)} %; {shown}",
        full["accuracy"]["n"], HOLDS if all(facts.values()) else FAILS,
        "; ".join(f"{fact}: {'yes' if true else 'no'}" for fact, true in facts.items()), command,
    )  # fmt: skip


def _dynamics(summary, command: str) -> Claim:
    ranks = _ranks(summary)
    per_epoch = (len(summary["rows"][0]["curves"][0]) - 1) // summary["settings"]["epochs"]

    def after_one(row) -> list[float]:
        return [curve[per_epoch] for curve in row["curves"]]

    def left(row) -> dict[str, Any]:
        """What is gained after the first epoch."""
        return _gain(after_one(row), row["accuracies"])

    head, full = _row(summary, "head only"), _row(summary, "full")
    low, high = _row(summary, "LoRA", ranks[0]), _row(summary, "LoRA", ranks[-1])
    faster = _gain(after_one(low), after_one(high))
    facts = {
        "head-only has little left to gain after one epoch": _below(left(head), 0.02),
        "full is highest after one epoch": np.mean(after_one(full))
        >= max(np.mean(after_one(row)) for row in (head, low, high)),
        f"r = {ranks[-1]} is ahead of r = {ranks[0]} after one epoch": _above(faster),
    }
    return Claim(
        "S2.7", "head-only converges quickly to a low plateau, full is fastest and highest, higher ranks converge slightly faster", "a figure",
        f"after one epoch: head only {text(estimate(after_one(head)), 1, 100)} %, full {text(estimate(after_one(full)), 1, 100)} %, "
        f"r = {ranks[-1]} minus r = {ranks[0]} {_points(faster)}; head only gains {_points(left(head))} more",
        full["accuracy"]["n"], HOLDS if all(facts.values()) else FAILS,
        "; ".join(f"{fact}: {'yes' if true else 'no'}" for fact, true in facts.items()), command,
    )  # fmt: skip
