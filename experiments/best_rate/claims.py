"""L.1 to L.4, for each problem: how the best learning rate moves with the rank, against what was said of it.

The two lengths of training are peers: a rule that serves every rank serves it for either.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.best_rate import vertex
from experiments.common.statistics import estimate
from experiments.ledger import declared
from experiments.ledger.facts import ANY, settled
from experiments.ledger.inference import LEVEL, Fact, equivalent
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
        values, horizon = row["by_seed"]["exponent"], row["horizon"]
        said = f"{horizon} training: best rate ~ rank^e, e within {margin:g} of 0"
        fact = equivalent(said, values, [0.0] * len(values), margin)
        lowest = by_the_lowest(_cells(summary, horizon, rule))
        if not lowest:
            fact = Fact(said, None, f"{fact.shown}; one rank was tried")
        else:
            fact = _where_both_agree(fact, equivalent(said, lowest, [0.0] * len(lowest), margin))
        facts.append(_unless_unclear(fact, _cells(summary, horizon, rule, "full")))
    more = "; an answer counts where best rates read off by the parabola and by the lowest loss of those tried agree"
    return settled(id, statement, facts, len(values), command, published="e = 0", more=more, needs=ANY)


def by_the_lowest(cells: list[dict[str, Any]]) -> list[float]:
    """Of each seed the exponent of a line through the rates of its lowest tuning losses, rank by rank; none where there is one rank."""
    ranks = [cell["rank"] for cell in cells]
    if len(set(ranks)) < 2:
        return []
    rates = [[cell["rates"][vertex.least(of_seed)] for of_seed in cell["by_seed"]["tuning_losses"]] for cell in cells]
    return [vertex.exponent(ranks, powers, step=np.e) for powers in np.log(rates).T]


def _where_both_agree(parabola: Fact, lowest: Fact) -> Fact:
    shown = f"{parabola.shown}; by the lowest tried {lowest.shown.split(', margin')[0]}"
    return Fact(parabola.said, parabola.true if parabola.true == lowest.true else None, shown)


def _tenfold(id: str, summary: dict[str, Any], command: str) -> Claim:
    """Of the base-10 logarithm of the ratio, at the rank in the middle, with alpha fixed."""
    margin, facts, told = declared.of(id).margin, [], []
    for row in (row for row in summary["exponents"] if row["rule"] == "alpha fixed"):
        ratios, horizon = row["by_seed"]["ratio_to_full"], row["horizon"]
        rank = _middle(ratios)
        logs = np.log10(ratios[rank])
        said = f"{horizon} training, r = {rank}: LoRA's best rate is within a factor of {10**margin:.3g} of ten times full's"
        fact = equivalent(said, logs, [np.log10(TENFOLD)] * len(logs), margin)
        asked = [cell for cell in _cells(summary, horizon, "alpha fixed", "full") if cell["rank"] in (int(rank), None)]
        facts.append(_unless_unclear(_as_ratio(fact, logs), asked))
        told.append(f"{horizon} {_by_scale(summary, horizon, rank)}")
    scale = summary["settings"]["scale"]
    statement = (
        f"LoRA's best rate is ten times that of full fine-tuning (LoRA Without Regret; here with alpha = {scale:g})"
    )
    return settled(
        id, statement, facts, len(logs), command,
        published="10", more=f"; the ratio is that of this scale: at r = {rank} it is, geometric means, {'; '.join(told)}", needs=ANY,
    )  # fmt: skip


def _middle(ratios: dict[str, list[float]]) -> str:
    return list(ratios)[len(ratios) // 2]


def _as_ratio(fact: Fact, logs: np.ndarray) -> Fact:
    """The same, told as what multiplies full's rate."""
    e = estimate(logs.tolist(), 1 - 2 * LEVEL)
    if e["low"] is None:
        return fact
    mean, low, high = (10 ** e[name] for name in ("mean", "low", "high"))
    return dataclasses.replace(fact, shown=f"{mean:.1f} times, 90 % [{low:.1f}, {high:.1f}]")


def _by_scale(summary: dict[str, Any], horizon: str, rank: str) -> str:
    """LoRA's best rate over full's under each rule, whose scales differ at this rank."""
    ratios = {
        row["rule"]: row["by_seed"]["ratio_to_full"][rank] for row in summary["exponents"] if row["horizon"] == horizon
    }
    return ", ".join(f"{10 ** np.log10(values).mean():.1f} with {rule}" for rule, values in ratios.items())


def _cells(summary: dict[str, Any], horizon: str, *rules: str) -> list[dict[str, Any]]:
    return [row for row in summary["cells"] if row["horizon"] == horizon and row["rule"] in rules]


def _unless_unclear(fact: Fact, cells: list[dict[str, Any]]) -> Fact:
    """Not settled where a best rate lies at the edge of what was tried, of the mean loss or of a seed's, or the loss is flat around it.

    The test is of each seed's own best rates: one at an edge is only known to lie there or beyond.
    """
    at_edge = [
        vertex.best(range(len(of_seed)), of_seed)[1] for row in cells for of_seed in row["by_seed"]["tuning_losses"]
    ]
    unclear = {
        "best rates lie at the edge of what was tried": [row["rate_at_edge"] for row in cells],
        "best rates of single seeds lie at the edge of what was tried": at_edge,
        "best rates lie where the loss is flat": [row["rate_is_flat"] for row in cells],
    }
    for said, found in unclear.items():
        if any(found):
            return Fact(fact.said, None, f"{fact.shown}; {sum(found)} of {len(found)} {said}")
    return fact
