"""S2.6, accuracy against what trains, and S2.9, the rank of full fine-tuning's update. Nothing here imports jax."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.common.items import of_row
from experiments.common.statistics import text
from experiments.ledger.facts import settled
from experiments.ledger.inference import Fact, every, holm
from experiments.ledger.table import Claim
from experiments.sst2 import contrasts
from experiments.sst2.contrasts import above, below, difference, lora, right, row_of

NEAR = 2.0  # points: "near-optimal"
STEP = 0.5  # points that a step of a smooth front may go down
LOST = 1.0  # points: an update "lives in" a rank that holds all but so much of what it gained
NEAR_OPTIMAL = (8, 16)
NEEDED = 8  # the rank at which the update is cut
BESIDE = ("LoRA all linear", "from scratch")

Summary = Mapping[str, Any]


def claim(id: str, summary: Summary, command: str, published: str, compared: str) -> Claim:
    """S2.6; `compared` says how a published number relates to ours."""
    head, full = right(summary, "head only"), right(summary, "full")
    ranks = near_optimal(summary)
    near = {f"LoRA r = {rank}": right(summary, "LoRA", rank) for rank in ranks}
    all_lora = {f"LoRA r = {row['rank']}": right(summary, "LoRA", row["rank"]) for row in lora(summary)}
    others = {"head only": head, **all_lora} | beside(summary)
    steps = list({"head only": head, **all_lora, "full": full}.items())
    tests = [
        every("head only is below LoRA and full", [below(name, difference(head, other)) for name, other in {**near, "full": full}.items()]),
        every("full is above every other regime", [above(name, difference(full, other)) for name, other in others.items()]),
        every(
            f"LoRA r = {' and '.join(map(str, ranks))} {'are' if len(ranks) > 1 else 'is'} less than {NEAR:g} points below full",
            [above(name, difference(other, full), -NEAR) for name, other in near.items()],
        ),
        every(
            f"no step along the front goes down by more than {STEP:g} points",
            [above(f"{a} to {b}", difference(y, x), -STEP) for (a, x), (b, y) in zip(steps[:-1], steps[1:], strict=True)],
        ),
    ]  # fmt: skip
    facts = holm(tests)
    facts.insert(3, _share(summary))
    far = difference(near["LoRA r = 8"], full)
    return settled(
        id,
        "head-only underfits; full is best; LoRA with r in [8, 16] is near-optimal with < 1 % trainable parameters (a smooth Pareto front)",
        facts,
        len(full),
        command,
        published=published,
        ours=f"head only {_points(summary, 'head only')}, full {_points(summary, 'full')}; "
        + "; ".join(f"{fact.said}: {fact.shown}" for fact in facts)
        + (f"; {compared}" if compared else ""),
        more=f" ({contrasts.errors(far)} of LoRA r = 8 minus full; {contrasts.needed_sentences(far):,} sentences would tell 1 point)",
    )


def near_optimal(summary: Summary) -> list[int]:
    """The ranks that the claim names, as far as they were run."""
    run = [row["rank"] for row in lora(summary)]
    return [rank for rank in NEAR_OPTIMAL if rank in run]


def beside(summary: Summary, kept: str = "right") -> dict[str, np.ndarray]:
    """The regimes that stand beside the front, as far as they were run."""
    rows = [row for row in summary["rows"] if row["regime"] in BESIDE]
    return {row["regime"]: of_row(row, summary["scored"], kept) for row in rows}


def _share(summary: Summary) -> Fact:
    """A count, and no test."""
    rows = [row_of(summary, "LoRA", rank) for rank in near_optimal(summary)]
    head = row_of(summary, "head only")["parameters"]
    shown = ", ".join(
        f"{100 * row['share']:.2f} % at r = {row['rank']}, of which the head is {100 * head / row['parameters']:.0f} %"
        for row in rows
    )
    return Fact("under 1 % trains", all(row["share"] < 0.01 for row in rows), shown)


def subspace(id: str, summary: Summary, command: str) -> Claim:
    """S2.9: full fine-tuning's update cut at a rank, and scored, and LoRA that was trained at it."""
    full, scored = right(summary, "full"), summary["scored"]
    at = {row["cut"]: of_row(row, scored) for row in summary["truncated"] if row["rank"] == NEEDED}
    trained = right(summary, "LoRA", NEEDED)
    without = {row["cut"]: of_row(row, scored) for row in summary["truncated"] if row["rank"] == 0}
    tests = [_held(cut, found, full, without.get(cut)) for cut, found in at.items()]
    asked = iter(holm([fact for fact in tests if fact.p is not None]))
    facts = [fact if fact.p is None else next(asked) for fact in tests]
    against_trained = above("", difference(at["every matrix"], trained))
    shares = energy(summary, NEEDED)
    return settled(
        id,
        "most adaptation lives in a low-rank subspace",
        facts,
        len(full),
        command,
        published="a spectrum",
        ours="; ".join(f"{fact.said}: {fact.shown}" for fact in facts)
        + f"; every matrix cut at {NEEDED} minus LoRA r = {NEEDED}: {against_trained.shown}"
        + f"; rank {NEEDED} holds {100 * min(shares):.0f} to {100 * max(shares):.0f} % of the energy of the updates of query and value",
        more="; energy is no accuracy: what it leaves out is scored here",
    )


def _held(cut: str, found: np.ndarray, full: np.ndarray, without: np.ndarray | None) -> Fact:
    """Not settled, and of no family, where it is not shown that full fine-tuning loses more than LOST without any update there: then no rank is
    known to have anything to hold."""
    fact = above(
        f"cut at rank {NEEDED} in {cut} of the encoder, full loses less than {LOST:g} point",
        difference(found, full),
        -LOST,
    )
    if without is None:
        return fact
    there = above("", difference(full, without), LOST)
    if there.true:
        return fact
    empty = f"without any update there it loses {there.shown}, so this tells nothing"
    return Fact(fact.said, None, f"{fact.shown}; {empty}")


def energy(summary: Summary, rank: int) -> list[float]:
    """The share of energy that the first `rank` directions have of each update of query and value, averaged over seeds."""
    found = [kept for path, kept in summary["spectrum"].items() if "/query/" in path or "/value/" in path]
    return [
        float(np.mean(kept["shares"], axis=0)[kept["ranks"].index(rank)]) for kept in found if rank in kept["ranks"]
    ]


def _points(summary: Summary, regime: str) -> str:
    return f"{text(row_of(summary, regime)['accuracy'], 2, 100)} %"
