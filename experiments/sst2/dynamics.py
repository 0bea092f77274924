"""S2.7: what training looks like, after its first epoch and at its end. Nothing here imports jax."""

from collections.abc import Mapping
from typing import Any

from experiments.common.statistics import estimate, text, wilson
from experiments.ledger.facts import settled
from experiments.ledger.inference import Fact, every, holm
from experiments.ledger.table import Claim
from experiments.sst2.contrasts import above, below, difference, lora, right
from experiments.sst2.front import beside

PLATEAU = 2.0  # points that head only may gain after one epoch
STABLE = 0.02  # of accuracy: no run ends so far below the best it was measured at
FIRST = "right_after_one_epoch"

Summary = Mapping[str, Any]


def claim(id: str, summary: Summary, one_rate: Summary | None, command: str) -> Claim:
    """S2.7; ranks are compared at one learning rate where there is such a run, as a higher rate alone is faster."""
    rows = lora(summary)
    head, full = right(summary, "head only"), right(summary, "full")
    early = {"head only": right(summary, "head only", kept=FIRST)}
    early |= {f"r = {row['rank']}": right(summary, "LoRA", row["rank"], kept=FIRST) for row in rows} | beside(
        summary, FIRST
    )
    ranks = {f"r = {row['rank']}": right(summary, "LoRA", row["rank"]) for row in rows}
    late = {"head only": head} | ranks | beside(summary)
    full_early = right(summary, "full", kept=FIRST)
    low, high, run = rows[0]["rank"], rows[-1]["rank"], one_rate or summary
    faster = difference(right(run, "LoRA", high, kept=FIRST), right(run, "LoRA", low, kept=FIRST))
    at = "at one learning rate" if one_rate else "each at its own learning rate"
    facts = holm(
        [
            below(
                f"head only gains less than {PLATEAU:g} points after one epoch",
                difference(head, early["head only"]),
                PLATEAU,
            ),
            every(
                "and ends below every rank",
                [above(name, difference(a, head)) for name, a in ranks.items()],
            ),
            every(
                "full is ahead after one epoch", [above(name, difference(full_early, a)) for name, a in early.items()]
            ),
            every("and at the end", [above(name, difference(full, a)) for name, a in late.items()]),
            above(f"r = {high} is ahead of r = {low} after one epoch, {at}", faster),
        ]
    )
    facts.insert(4, _stable(rows))
    return settled(
        id,
        "dynamics: head-only converges quickly to a low plateau, full is fastest and highest, LoRA is stable, higher ranks converge slightly faster",
        facts,
        len(full),
        command,
        ours=f"after one epoch: head only {_mean(early['head only'])} %, full {_mean(full_early)} %; "
        + "; ".join(f"{fact.said}: {fact.shown}" for fact in facts),
    )


def _stable(rows) -> Fact:
    """A count of runs, and no test."""
    falls = [max(curve) - curve[-1] for row in rows for curve in row["curves"]]
    fallen = sum(fall >= STABLE for fall in falls)
    said = f"LoRA is stable: no run of {len(falls)} ends {100 * STABLE:.0f} points or more below its best"
    shown = f"the largest fall is {100 * max(falls):.2f} points; {fallen} runs, {text(wilson(fallen, len(falls)), 1, 100)} %"
    return Fact(said, not fallen, shown)


def _mean(right) -> str:
    return text(estimate(right.mean(axis=1).tolist()), 1, 100)
