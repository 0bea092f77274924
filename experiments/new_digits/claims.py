"""S3, from the summary of the new-digits study. Letters: M seeds (each its own base), I test images, old digits first."""

import dataclasses
from typing import Any

import numpy as np

from experiments.common.items import unpacked
from experiments.common.statistics import text
from experiments.ledger import declared
from experiments.ledger.facts import ALL, FIRST, settled
from experiments.ledger.inference import Fact, equivalent, equivalent_over_items, holm, one_run, over_items
from experiments.ledger.table import Claim
from experiments.new_digits.equal_gain import at_equal_gain
from experiments.new_digits.recipes import has_rates

PUBLISHED_PARAMETERS, PRINTED = 41_376, 41_367  # 16 x 2,586
PUBLISHED_SHARE = 6.8  # percent of base and adapter
MISPRINT = "; the study prints 41,367 for 16 x 2,586"
PUBLISHED = {"old": 98.74, "overall": 79.17}  # of the base, in percent
GAINED = 0.9  # of the new digits right, where forgetting is compared
SAID = {"old": "0-7", "new": "8-9", "overall": "all"}


def claims(summary: dict[str, Any], command: str) -> list[Claim]:
    rows = {row["kind"]: row for row in [*summary["rows"], *summary["modular"]]}
    study, n = rows["study"], summary["base"]["overall"]["n"]

    def of(
        id_: str, statement: str, facts: list[Fact], published: str = "-", more: str = "", needs: str = FIRST
    ) -> Claim:
        return settled(id_, statement, facts, n, command, published=published, more=more, needs=needs)

    def meets(row: dict[str, Any]) -> list[Fact]:
        return holm([_bar(row, summary, group, bar) for group, bar in summary["bars"].items()])

    least, full = rows["least"], rows["full, replayed"]
    both, edge = f"{_three(least)}{_on_validation(summary)}", _at_edge(summary)
    return [
        of("S3.1", "the base on 0-7 / on 8-9 / overall", _base(summary), "98.74 % / 0.00 % / 79.17 %", _of_base(summary)),
        of("S3.2", "LoRA parameters at r = 16 on every layer", _size(summary["base"], study), f"{PRINTED:,}, 6.8 %", MISPRINT),
        of("S3.3", "after LoRA on 8-9 alone: 0-7 / 8-9 / overall", meets(study), "98.7 % kept / >= 95 % / >= 98 %", f"; {_three(study)}", ALL),
        of("S3.4", "adapters can be added and removed without touching the base", _modular(summary), "modularity"),
        of("S3.5", f"{_named(rows['later'])} meets the bars of S3.3", meets(rows["later"]), needs=ALL),
        of("S3.6", f"{_named(rows['later, tuned'])} meets the bars of S3.3", meets(rows["later, tuned"]), needs=ALL),
        of("S3.7", f"old digits replayed, LoRA meets the bars of S3.3: {least['name']}", meets(least), more=f"; {both}", needs=ALL),
        of("S3.8", "on 8-9 alone LoRA forgets no more of 0-7 than full fine-tuning at its rate", _whose(summary, study, rows["full alone"])),
        of("S3.9", "the surer of base and adapter answers, and together they meet the bar of S3.3", _routed(summary, rows), "modularity"),
        of("S3.10", f"with the same replay LoRA is within half a point of full: {least['name']}", _as_well(summary, least, full), "comparable", edge),
    ]  # fmt: skip


def _named(row: dict[str, Any]) -> str:
    return f"{row['name']} ({row['parameters']:,} parameters)"


def _right(row: dict[str, Any], summary: dict[str, Any], group: str = "overall") -> np.ndarray:
    """[M, I] of a group of digits."""
    items = summary["items"]
    parts = {"old": slice(0, items["old"]), "new": slice(items["old"], None), "overall": slice(None)}
    return unpacked(row["right"], sum(items.values()))[:, parts[group]].astype(float)


def _bar(row, summary, group: str, bar: float) -> Fact:
    """Whether the share right lies above a bar, over bases and images."""
    right = _right(row, summary, group)
    return over_items(f"{SAID[group]} above {100 * bar:g} %", right, np.zeros_like(right), bar=100 * bar)


def _three(row) -> str:
    return " / ".join(f"{text(row[group], 2, 100)} %" for group in SAID)


def _base(summary) -> list[Fact]:
    base, margin = summary["base"], declared.of("S3.1").margin
    knows_none = not any(base["by_seed"]["new"])
    found = [Fact("no image of 8-9 right", knows_none, f"{max(base['by_seed']['new']):.4f} at most")]
    for group, published in PUBLISHED.items():  # of the same test images, so that only bases are a sample
        ours = [100 * share for share in base["by_seed"][group]]
        said = f"{SAID[group]} within {margin:g} points of {published:g} %"
        found.append(equivalent(said, ours, [published] * len(ours), margin))
    return found


def _of_base(summary) -> str:
    base = summary["base"]
    old = one_run(PUBLISHED["old"], [100 * share for share in base["by_seed"]["old"]], digits=2)
    held_out = summary["settings"]["held_out"]
    return f"; {_three(base)}; {old}; trained on {base['training_images']:,} images of 0-7, as {held_out:,} of all digits are held out to choose on"


def _size(base, study) -> list[Fact]:
    parameters = study["parameters"]
    share = 100 * parameters / (base["parameters"] + parameters)
    return [
        Fact(f"{PUBLISHED_PARAMETERS:,} parameters", parameters == PUBLISHED_PARAMETERS, f"{parameters:,}"),
        Fact(f"{PUBLISHED_SHARE:g} % of base and adapter", round(share, 1) == PUBLISHED_SHARE, f"{share:.2f} %"),
    ]


def _modular(summary) -> list[Fact]:
    adapters = [row for row in summary["rows"] if "adapter_off_equals_base" in row]
    off = all(row["adapter_off_equals_base"] for row in adapters)
    return [
        Fact(
            "with the adapter off each test image is right where it is by the base", off, f"in {len(adapters)} recipes"
        ),
        Fact("the base is bit for bit what it was", summary["base_unchanged"], f"after {len(summary['rows'])} recipes"),
    ]


def _on_validation(summary) -> str:
    chosen = "replay, epochs and rate" if has_rates(summary["tuning"]) else "replay and epochs"
    return f"; {chosen} chosen on held-out training images, measured on the test images once{_at_edge(summary)}"


def _at_edge(summary) -> str:
    edges = [method for method, found in summary["tuning"]["rates"].items() if found["at_edge"]]
    return f"; the rate of {', '.join(edges)} lies at the edge of what was tried" if edges else ""


def _whose(summary, study, full) -> list[Fact]:
    """What LoRA and full fine-tuning at its rate keep of the old digits: at the end, and when as much is gained."""
    margin = declared.of("S3.8").margin
    rows = [[100 * share for share in row["by_seed"]["old"]] for row in (study, full)]
    curves = [next(curve for curve in summary["first_epoch"] if curve["name"] == row["name"]) for row in (study, full)]
    pairs = zip(*(at_equal_gain(curve, GAINED) for curve in curves), strict=True)
    there = [(100 * a, 100 * b) for a, b in pairs if a is not None and b is not None]
    return [
        _alike(f"at the end LoRA keeps of 0-7 what full does, within {margin:g} points", *rows, margin),
        _alike(
            f"once {100 * GAINED:g} % of 8-9 are right, too", *(zip(*there, strict=True) if there else ((), ())), margin
        ),
    ]


def _alike(said: str, ours, theirs, margin: float) -> Fact:
    """An equivalence that says both means."""
    if not len(ours):
        return Fact(said, None, "never reached")
    fact = equivalent(said, ours, theirs, margin)
    return Fact(said, fact.true, f"{np.mean(ours):.1f} and {np.mean(theirs):.1f} %: {fact.shown}, n = {len(ours)}")


def _routed(summary, rows) -> list[Fact]:
    ways = {"confidence": "where it is surer", "oracle": "by an oracle"}
    facts = [_bar(rows[kind], summary, "overall", summary["bars"]["overall"]) for kind in ways]
    told = zip(ways.items(), holm(facts), strict=True)
    return [
        dataclasses.replace(fact, said=f"{way}: {fact.said}", shown=f"{fact.shown} ({_three(rows[kind])})")
        for (kind, way), fact in told
    ]


def _as_well(summary, lora, full) -> list[Fact]:
    margin = declared.of("S3.10").margin
    said = f"overall within {margin:g} points of full fine-tuning at its own rate"
    fact = equivalent_over_items(said, _right(lora, summary), _right(full, summary), margin)
    return [
        Fact(fact.said, fact.true, f"{fact.shown} ({lora['parameters']:,} against {full['parameters']:,} parameters)")
    ]
