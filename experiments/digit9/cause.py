"""S0.4, S0.6, S0.9, S0.10, S1.6, S1.7, S1.10: is the damage the low rank's, that of what may move, or the step's? At equal gain, paired."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.digit9.equal_gain import at_dose, at_half, beyond, compared, family, half, pooled, told
from experiments.ledger.facts import settled
from experiments.ledger.inference import Fact
from experiments.ledger.table import Claim

LOW, HIGH = 4, 16  # ranks up to, and from


def cause(id_: str, summary: dict[str, Any], command: str) -> Claim:
    """Decided by low ranks against high ones; each rank, full and bias-only tuning beside the study's setting are told with it."""
    study = summary["rows"][0]
    own = by_rank(summary, "own")
    low, high = _low(own), _high(own)
    rivals = _rivals(summary)
    found = at_half(rivals, study)
    sides = " against ".join(f"ranks {', '.join(str(row['rank']) for row in rows)}" for rows in (low, high))
    ranks = compared(sides, *_padded_none(low, high, study))
    fact = beyond(f"low ranks (to {LOW}) add more than high ones (from {HIGH}), by over a fifth", ranks, "more")
    added = "; ".join(f"{row['name']} {told(row)}" for row in (study, *rivals))
    return settled(
        id_, "the cause is the low-rank update, which shares directions across classes", [fact], ranks.reached, command,
        published="not tested",
        ours=f"errors added elsewhere once half of the 9s are mended: {added}",
        more=f"; {fact.shown}; each against {study['name']}, Holm: {'; '.join(map(str, found))}",
    )  # fmt: skip


def beyond_half(id_: str, summary: dict[str, Any], command: str) -> Claim:
    """As `cause`, at the largest gain that a row and the study's setting both have: low ranks beside a high one, or high ones beside a low one."""
    study, own = summary["rows"][0], by_rank(summary, "own")
    is_low = study["rank"] <= LOW
    side = _high(own) if is_low else _low(own)
    name = f"ranks {', '.join(str(row['rank']) for row in side)} beside {study['name']}"
    pooled_, found = compared(name, *_mean_at_dose(side, study)), at_dose(_rivals(summary))
    said = "low ranks add more than high ones at the largest gain that both have, by over a fifth"
    fact = beyond(said, pooled_, "less" if is_low else "more")
    return settled(
        id_, "at larger gains the low rank does more damage (found here)", [fact], pooled_.reached, command,
        published="-", more=f"; each against {study['name']}, Holm: {'; '.join(map(str, found))}",
    )  # fmt: skip


def _mean_at_dose(rows: Sequence[dict], study) -> tuple[list[float | None], list[float | None]]:
    """Means over rows of what they, and the study's setting, have added at each one's dose, of each seed."""
    if not rows:
        return [None] * study["at_half"]["of"], [None] * study["at_half"]["of"]
    names = ("added_at_dose", "study_added_at_dose")
    return tuple(np.mean([row["by_seed"][name] for row in rows], axis=0).tolist() for name in names)


def step(id_: str, summary: dict[str, Any], command: str) -> Claim:
    """The larger step against each rank's own; first of all, where there is such a row, a scale of 16 at the lowest rank."""
    own, larger = by_rank(summary, "own"), by_rank(summary, "larger")
    ranks = [rank for rank in own if rank in larger]
    all_ = compared("all ranks", pooled([larger[r] for r in ranks]), pooled([own[r] for r in ranks]))
    each = family([compared(f"r = {r}", half(larger[r]), half(own[r])) for r in ranks])
    facts, first = [beyond("a larger rate adds more at equal gain, by over a fifth", all_, "more")], all_
    for row in summary["rows"]:
        if row["rank"] in own and row["kind"] == "study" and (row["alpha"] or 0) > row["rank"]:
            scaled = compared(f"{row['name']}, against {own[row['rank']]['name']}", half(row), half(own[row["rank"]]))
            said = f"a scale of {row['alpha'] / row['rank']:g} adds more at equal gain, by over a fifth"
            facts.insert(0, beyond(said, scaled, "more"))
            first = scaled
    return settled(
        id_, "damage at equal gain depends on the step's size (found here)", facts, first.reached, command,
        published="-",
        more=f"; rates x {_factor(own, larger, ranks)}; each rank, Holm: {'; '.join(map(str, each))}",
    )  # fmt: skip


def final_layers(id_: str, summary: dict[str, Any], command: str) -> Claim:
    """Adapters on all layers beside those on the final ones; and the study's other settings."""
    study = summary["rows"][0]
    others = [row for row in summary["rows"][1:] if row["kind"] == "study"]
    found = at_half(others, study)
    everywhere = [one for one, row in zip(found, others, strict=True) if row["targets"]]
    said = "adapters on all layers add less at equal gain, by over a fifth"
    fact = beyond(said, everywhere[0], "less") if everywhere else Fact(said, None, "no such row")
    return settled(
        id_, "adapters on the final layers alone amplify the damage", [fact], everywhere[0].reached if everywhere else 0, command,
        published="told, not tested", more=f"; all against {study['name']}, Holm: {'; '.join(map(str, found))}",
    )  # fmt: skip


def by_rank(summary: dict[str, Any], step_: str) -> dict[int, dict[str, Any]]:
    """rank -> its row at the rank's own rate, or the larger one, ranks ascending."""
    found = {row["rank"]: row for row in summary["rows"] if row["step"] == step_ and row["kind"] in ("study", "rank")}
    return dict(sorted(found.items()))


def _low(own: dict[int, dict]) -> list[dict[str, Any]]:
    return [row for rank, row in own.items() if rank <= LOW]


def _high(own: dict[int, dict]) -> list[dict[str, Any]]:
    return [row for rank, row in own.items() if rank >= HIGH]


def _rivals(summary) -> list[dict[str, Any]]:
    """Ranks at their own rates, full and bias-only tuning; not the study's setting."""
    rows = [*by_rank(summary, "own").values(), *(row for row in summary["rows"] if row["kind"] == "suspect")]
    return [row for row in rows if row is not summary["rows"][0]]


def _padded_none(low: Sequence[dict], high: Sequence[dict], study) -> tuple[list[float | None], list[float | None]]:
    """Means over ranks of each seed; nothing where a summary has rows of one side alone."""
    nothing = [None] * study["at_half"]["of"]
    return (pooled(low) if low else nothing), (pooled(high) if high else nothing)


def _factor(own, larger, ranks) -> str:
    """How many times as large the larger rates are, `6.5 to 6.8`: they are rounded."""
    factors = [f"{larger[rank]['learning_rate'] / own[rank]['learning_rate']:.1f}" for rank in ranks]
    return " to ".join(sorted({min(factors, key=float), max(factors, key=float)}, key=float)) if factors else "nothing"
