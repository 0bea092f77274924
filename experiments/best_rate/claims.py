"""L.1 to L.4, for each problem: how the best learning rate moves with the rank, against what was said of it."""

from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.ledger import declared
from experiments.ledger.facts import settled
from experiments.ledger.inference import Fact, equivalent
from experiments.ledger.table import Claim

SAID = {
    "L.1": ("alpha = c r", "with alpha = c r one learning rate serves every rank (the premise of S2)"),
    "L.2": ("alpha / sqrt(r)", "with alpha / sqrt(r) one learning rate serves every rank (rsLoRA)"),
    "L.3": ("alpha fixed", "with alpha fixed one learning rate serves every rank (LoRA Without Regret)"),
}
TENFOLD = 10.0


def of(problem: str) -> Callable[[dict[str, Any], str], list[Claim]]:
    """The claims of one problem, whose ids end in its name."""

    def claims(summary: dict[str, Any], command: str) -> list[Claim]:
        exponents = [_flat(f"{id}.{problem}", *said, summary, command) for id, said in SAID.items()]
        return [*exponents, _tenfold(f"L.4.{problem}", summary, command)]

    return claims


def _flat(id: str, rule: str, statement: str, summary: dict[str, Any], command: str) -> Claim:
    """Within the margin of an exponent of 0, for either length of training."""
    margin = declared.of(id).margin
    rows = [row for row in summary["exponents"] if row["rule"] == rule]
    facts = []
    for row in rows:
        values = row["by_seed"]["exponent"]
        fact = equivalent(f"{row['horizon']} training: best rate ~ rank^e, e is 0", values, [0.0] * len(values), margin)
        facts.append(_unless_unclear(fact, summary, row["horizon"], rule))
    return settled(id, statement, facts, len(values), command, published="e = 0")


def _tenfold(id: str, summary: dict[str, Any], command: str) -> Claim:
    """Of the base-10 logarithm of the ratio, at the rank in the middle, with alpha fixed."""
    facts = []
    for row in (row for row in summary["exponents"] if row["rule"] == "alpha fixed"):
        ranks = list(row["by_seed"]["ratio_to_full"])
        rank = ranks[len(ranks) // 2]
        logs = np.log10(row["by_seed"]["ratio_to_full"][rank])
        fact = equivalent(
            f"{row['horizon']} training, r = {rank}: log10 of LoRA's best rate over full's is 1", logs, [np.log10(TENFOLD)] * len(logs),
            declared.of(id).margin,
        )  # fmt: skip
        facts.append(_unless_unclear(fact, summary, row["horizon"], "alpha fixed"))
    return settled(
        id,
        "LoRA's best rate is ten times that of full fine-tuning (LoRA Without Regret)",
        facts,
        len(logs),
        command,
        published="10",
    )


def _unless_unclear(fact: Fact, summary: dict[str, Any], horizon: str, rule: str) -> Fact:
    """Not settled where a best rate lies at the edge of what was tried, or the loss is flat around it."""
    cells = [row for row in summary["cells"] if row["horizon"] == horizon and row["rule"] in (rule, "full")]
    for what, said in (("rate_at_edge", "at the edge of what was tried"), ("rate_is_flat", "where the loss is flat")):
        unclear = sum(row[what] for row in cells)
        if unclear:
            return Fact(fact.said, None, f"{fact.shown}; {unclear} of {len(cells)} best rates lie {said}")
    return fact
