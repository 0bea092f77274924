"""S2.4 to S2.7, from the summary of S2, part II.

Differences are taken seed by seed: regimes share a seed's batches and its first classifier. Intervals are over these seeds:
the base and the validation sentences are the same for all. A verdict rests on facts, each told with its answer.
"""

from typing import Any

from experiments.common.statistics import estimate, text
from experiments.ledger.facts import Facts, above, below, claim, gain
from experiments.ledger.table import Claim

NEAR = 0.02  # of accuracy: "near-optimal", the distance between the bars set for full and for LoRA
SAME = 0.01  # "saturates": no rank beyond gains more
STABLE = 0.02  # no seed ends further below the best it was measured at
NEAR_OPTIMAL = (8, 16)  # the ranks that S2.6 names


def claims(summary: dict[str, Any], one_rate: dict[str, Any], command: str) -> list[Claim]:
    """`one_rate`: the same of LoRA alone, every rank at the same learning rate."""
    ranks = [row["rank"] for row in _lora(summary)]
    if not (min(ranks) < 8 < max(ranks) and set(NEAR_OPTIMAL) <= set(ranks)):
        return []  # a run of other ranks says nothing about them
    return [
        _saturates(summary, one_rate, command),
        _no_u_shape(summary, command),
        _pareto(summary, command),
        _dynamics(summary, one_rate, command),
    ]


def _row(summary: dict[str, Any], regime: str, rank: int | None = None) -> dict[str, Any]:
    return next(row for row in summary["rows"] if row["regime"] == regime and row["rank"] == rank)


def _lora(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of LoRA on query and value, by rank."""
    return [row for row in summary["rows"] if row["regime"] == "LoRA"]


def _points(e: dict[str, Any]) -> str:
    return f"{text(e, 2, 100)} points"


def _saturates(summary, one_rate, command: str) -> Claim:
    """At each rank's own learning rate and at one for all: where only the first shows it, it may be the rates' doing."""
    facts: Facts = {}
    told = []
    for at, run in {"at one learning rate for all": one_rate, "at each rank's own": summary}.items():
        first, middle, last = _lora(run)[0], _row(run, "LoRA", 8), _lora(run)[-1]
        early, late = gain(first["accuracies"], middle["accuracies"]), gain(middle["accuracies"], last["accuracies"])
        facts[f"a gain from r = {first['rank']} to 8 {at}"] = above(early)
        facts[f"from 8 to {last['rank']} less than {100 * SAME:.0f} point {at}"] = below(late, SAME)
        rates = dict.fromkeys(f"{row['learning_rate']:g}" for row in (first, middle, last))
        told.append(
            f"{at} ({', '.join(rates)}), r = {first['rank']} to 8 {_points(early)}, 8 to {last['rank']} {_points(late)}"
        )
    return claim(
        "S2.4",
        "accuracy improves rapidly from r = 1 to about 8, saturates beyond",
        "; ".join(told),
        early["n"],
        facts,
        command,
    )


def _no_u_shape(summary, command: str) -> Claim:
    """Rank 8, where the rules agree, against the largest: a contrast fixed beforehand, its level shared out to the rates."""
    scaling = summary["scaling"]
    rates = scaling["rates"]
    ranks = sorted({row["rank"] for row in scaling["rows"]})
    of = {(row["rule"], row["rank"], row["learning_rate"]): row["accuracies"] for row in scaling["rows"]}

    def lost(rule: str) -> dict[float, dict[str, Any]]:
        return {r: gain(of[rule, ranks[-1], r], of[rule, 8, r], 1 - 0.05 / len(rates)) for r in rates}

    found = {rule: lost(rule) for rule in ("alpha = c r", "alpha fixed", "alpha/sqrt(r)")}
    facts = {
        "none at any learning rate with alpha = c r": not any(map(above, found["alpha = c r"].values())),
        "one at some learning rate with alpha fixed": any(map(above, found["alpha fixed"].values())),
    }
    ours = (
        f"what r = {ranks[-1]} loses to r = 8 at learning rates {', '.join(f'{r:.2g}' for r in rates)}: "
        + "; ".join(
            f"{rule} {', '.join(text(e, 2, 100) for e in of_rate.values())} points" for rule, of_rate in found.items()
        )
    )
    return claim(
        "S2.5", "no U-shaped degradation at high rank once alpha = c r (and one appears in early runs with fixed alpha)",
        ours, found["alpha = c r"][rates[0]]["n"], facts, command,
        f" ({100 * (1 - 0.05 / len(rates)):.1f} % intervals, for {len(rates)} rates)",
    )  # fmt: skip


def _pareto(summary, command: str) -> Claim:
    head, full = _row(summary, "head only"), _row(summary, "full")
    lora = {rank: _row(summary, "LoRA", rank) for rank in NEAR_OPTIMAL}
    distance = {rank: gain(full["accuracies"], row["accuracies"]) for rank, row in lora.items()}
    front = [row["accuracies"] for row in (head, *_lora(summary), full)]
    others = [row for row in summary["rows"] if row["regime"] not in ("full", "from scratch")]
    facts = {
        "head-only is below LoRA and full": all(
            above(gain(head["accuracies"], row["accuracies"])) for row in (*lora.values(), full)
        ),
        "full is above every other regime": all(above(gain(row["accuracies"], full["accuracies"])) for row in others),
        f"LoRA is within {100 * NEAR:.0f} points of full": all(above(e, -NEAR) for e in distance.values()),
        "under 1 % trains": all(row["share"] < 0.01 for row in lora.values()),
        "no step along the front goes down": not any(
            below(gain(a, b), 0.0) for a, b in zip(front[:-1], front[1:], strict=True)
        ),
    }
    shown = "; ".join(
        f"LoRA r = {rank} minus full {_points(distance[rank])}, {100 * lora[rank]['share']:.2f} % trains"
        for rank in NEAR_OPTIMAL
    )
    return claim(
        "S2.6",
        "head-only underfits; full is best; LoRA with r in [8, 16] is near-optimal with < 1 % trainable parameters (a smooth Pareto front)",
        f"head only {text(head['accuracy'], 2, 100)} %, full {text(full['accuracy'], 2, 100)} %; {shown}",
        full["accuracy"]["n"], facts, command,
    )  # fmt: skip


def _dynamics(summary, one_rate, command: str) -> Claim:
    per_epoch = (len(summary["rows"][0]["curves"][0]) - 1) // summary["settings"]["epochs"]

    def after_one(row) -> list[float]:
        return [curve[per_epoch] for curve in row["curves"]]

    rows = _lora(summary)
    head, full, low, high = _row(summary, "head only"), _row(summary, "full"), rows[0], rows[-1]
    left = gain(after_one(head), head["accuracies"])
    faster = gain(*(after_one(_row(one_rate, "LoRA", row["rank"])) for row in (low, high)))
    falls = max(max(curve) - curve[-1] for row in rows for curve in row["curves"])
    facts = {
        "head-only gains less than 2 points after one epoch": below(left, 0.02),
        "and ends below every rank": all(above(gain(head["accuracies"], row["accuracies"])) for row in rows),
        "full is ahead after one epoch": all(above(gain(after_one(row), after_one(full))) for row in (head, *rows)),
        "and at the end": all(above(gain(row["accuracies"], full["accuracies"])) for row in (head, *rows)),
        f"LoRA is stable: no run ends {100 * STABLE:.0f} points or more below its best": falls < STABLE,
        f"r = {high['rank']} is ahead of r = {low['rank']} after one epoch, at one learning rate": above(faster),
    }
    return claim(
        "S2.7",
        "dynamics: head-only converges quickly to a low plateau, full is fastest and highest, LoRA is stable, higher ranks converge slightly faster",
        f"after one epoch: head only {text(estimate(after_one(head)), 1, 100)} %, full {text(estimate(after_one(full)), 1, 100)} %, "
        f"r = {high['rank']} minus r = {low['rank']} {_points(faster)}; head only gains {_points(left)} more; "
        f"LoRA's largest fall from a run's best {100 * falls:.2f} points",
        full["accuracy"]["n"], facts, command,
    )  # fmt: skip
