"""S2.4 to S2.9, from the summary of S2, part II.

Regimes share a seed's batches and its first classifier: differences are taken seed by seed and sentence by sentence, and both are a sample. The
base is one: another may give other answers, and MiniLM stands beside it. The facts of a claim share its level (Holm).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.common.items import of_row
from experiments.ledger.facts import settled
from experiments.ledger.inference import Fact, holm, one_run
from experiments.ledger.table import Claim
from experiments.sst2 import contrasts, dynamics, front
from experiments.sst2.contrasts import above, below, lora, right, shape

SAME = 1.0  # point: "saturates", no rank beyond gains more
FALL = -0.25  # points a doubling at the largest rank: half a point from r = 8 to 32
BEND = -0.08  # points a squared doubling: the middle of r = 1 to 32 stands half a point above the line between its ends
GOOGLE = 83.2  # test accuracy, %, of Google's BERT-tiny fully fine-tuned (github.com/google-research/bert)

Summary = Mapping[str, Any]


def claims(summary: Summary, one_rate: Summary, command: str) -> list[Claim]:
    """`one_rate`: the same of LoRA alone, every rank at the same learning rate, and with alpha fixed."""
    if not _has_ranks(summary):
        return []
    ways = _at_own(summary) | ({} if _is_given(summary) else {"at one learning rate for all": one_rate})
    return [
        saturates("S2.4", ways, command),
        no_u_shape(summary, one_rate, command),
        *_regimes("", summary, one_rate, command),
    ]


def of_minilm(summary: Summary, command: str) -> list[Claim]:
    """The same of the second base, where each rank has its own learning rate, and no rule but alpha = c r is tried."""
    if not _has_ranks(summary):
        return []
    return [saturates("S2.4 MiniLM", _at_own(summary), command), *_regimes(" MiniLM", summary, None, command)]


def _regimes(name: str, summary: Summary, one_rate: Summary | None, command: str) -> list[Claim]:
    full = contrasts.row_of(summary, "full")["by_seed"]["accuracy"]
    published = "a figure" if name else f"a figure; Google's own BERT-tiny: {GOOGLE} % of the test set"
    compared = "" if name else one_run(GOOGLE, [100 * a for a in full], unchanged=100 * summary["majority"], digits=1)
    return [
        front.claim(f"S2.6{name}", summary, command, published, compared),
        dynamics.claim(f"S2.7{name}", summary, one_rate, command),
        *([front.subspace(f"S2.9{name}", summary, command)] if summary["truncated"] else []),
    ]


def _at_own(summary: Summary) -> dict[str, Summary]:
    """The run under what it says of learning rates."""
    return {"at the learning rate given" if _is_given(summary) else "at each rank's own learning rate": summary}


def _is_given(summary: Summary) -> bool:
    """Whether no rank's rate was searched for, so that all have one."""
    lines = summary.get("tuning", {}).get("LoRA", [])
    return bool(lines) and all(line["by"] == "given" for line in lines)


def _has_ranks(summary: Summary) -> bool:
    """A run of other ranks says nothing about them."""
    ranks = [row["rank"] for row in lora(summary)]
    return len(ranks) > 2 and min(ranks) < 8 < max(ranks) and front.NEEDED in ranks


def saturates(id: str, ways: Mapping[str, Summary], command: str) -> Claim:
    """At each rank's own learning rate and at one for all: where only one of them shows it, it may be the rates' doing."""
    facts, told = [], []
    for at, run in ways.items():
        ranks = [row["rank"] for row in lora(run)]
        found = [right(run, "LoRA", rank) for rank in ranks]
        late = contrasts.difference(found[-1], found[ranks.index(8)])
        facts += [
            above(f"accuracy rises with log2 r {at} (slope)", shape(ranks, found, "slope")),
            below(f"and the less the larger r is (curvature) {at}", shape(ranks, found, "curvature")),
            below(f"from 8 to {ranks[-1]} it gains less than {SAME:g} point {at}", late, SAME),
        ]
        means = ", ".join(f"{100 * row['accuracy']['mean']:.2f}" for row in lora(run))
        told.append(
            f"{at} (r = {', '.join(map(str, ranks))}: {means} %) r = 1 to 8 {_gain(found[0], found[ranks.index(8)])}"
        )
    first = next(iter(ways.values()))
    early = contrasts.difference(right(first, "LoRA", 8), right(first, "LoRA", lora(first)[0]["rank"]))
    return settled(
        id,
        "accuracy improves rapidly from r = 1 to about 8, saturates beyond",
        holm(facts),
        len(lora(first)[0]["right"]),
        command,
        ours="; ".join([*told, *(f"{fact.said}: {fact.shown}" for fact in facts)]),
        more=f" ({contrasts.errors(early)} of r = 1 to 8; {contrasts.needed_sentences(early):,} sentences would tell 1 point)",
    )


def _gain(a: np.ndarray, b: np.ndarray) -> str:
    return above("", contrasts.difference(b, a)).shown


def no_u_shape(summary: Summary, one_rate: Summary, command: str) -> Claim:
    """A U is a bend downwards and a fall at the largest rank: curvature and slope there of the parabola of each seed and sentence."""
    settings = {"in the study's setting": one_rate["scaling"], "in the short one": summary["scaling"]}
    facts = [fact for where, found in settings.items() for fact in _of_rules(where, found, summary["scored"])]
    lines = [
        f"{rule} {where}: {above('', shape(*_means(found, rule, summary['scored']), 'slope')).shown} points a doubling"
        for where, found in settings.items()
        for rule in ("alpha = c r", "alpha fixed")
    ]
    return settled(
        "S2.5",
        "no U-shaped degradation at high rank once alpha = c r (and one appears in early runs with fixed alpha)",
        holm(facts),
        len(one_rate["scaling"]["rows"][0]["right"]),
        command,
        ours="; ".join([*lines, *(f"{fact.said}: {fact.shown}" for fact in facts)]),
    )


def _of_rules(where: str, found: Mapping[str, Any], scored: int) -> list[Fact]:
    ratio, fixed = (_means(found, rule, scored) for rule in ("alpha = c r", "alpha fixed"))
    return [
        above(f"alpha = c r does not fall at the largest rank {where}", shape(*ratio, "end"), FALL),
        above(f"alpha = c r does not bend down {where}", shape(*ratio, "curvature"), BEND),
        below(f"alpha fixed bends down {where}", shape(*fixed, "curvature")),
        below(f"alpha fixed falls at the largest rank {where}", shape(*fixed, "end")),
    ]


def _means(found: Mapping[str, Any], rule: str, scored: int) -> tuple[list[int], Sequence[np.ndarray]]:
    """(ranks, right [U, I] of each, averaged over the learning rates within a seed and sentence)."""
    rows = [row for row in found["rows"] if row["rule"] == rule]
    ranks = sorted({row["rank"] for row in rows})
    of_rank = {rank: [of_row(row, scored) for row in rows if row["rank"] == rank] for rank in ranks}
    return ranks, [np.mean(of_rank[rank], axis=0) for rank in ranks]
