"""S0 and S1, from the summaries of the digit-9 studies."""

import dataclasses
from typing import Any

import numpy as np

from experiments.common.statistics import estimate, text
from experiments.digit9 import equal_gain, published
from experiments.digit9.cause import beyond_half, cause, final_layers, step
from experiments.ledger.facts import settled
from experiments.ledger.inference import Fact, holm, less, more, one_run
from experiments.ledger.table import HOLDS, Claim, verdict

RISE = 10.0  # errors, one percent of a digit's test images: what counts as a digit that suffers
SLIGHT = 1.0  # percentage points of accuracy
OURS = (
    "S0 names no network, learning rate or training of its base: those of this row are ours, the rate chosen so that digit 9 ends about where "
    "the study's did"
)
OWN_RATE = "direction only: the rate was fitted to this number"


def s0(summary: dict[str, Any], command: str) -> list[Claim]:
    study = summary["rows"][0]
    return [
        _accuracy("S0.1", study, published.S0, command, f"; {OURS}"),
        _digit("S0.2", study, published.S0, command, f"; {OURS}; so this agreement is no evidence"),
        _others("S0.3", "digits that look like 9 explode: 4, 3 and 1", study, published.S0, command),
        cause("S0.4", summary, command),
        *_mitigations("S0.5", summary, command),
        step("S0.6", summary, command),
        _confusions("S0.7", study, command),
        _few_shot("S0.8", study, command),
        final_layers("S0.9", summary, command),
        beyond_half("S0.10", summary, command),
    ]


def s1(summary: dict[str, Any], command: str) -> list[Claim]:
    study = summary["rows"][0]
    n = study["accuracy_after"]["n"]
    ratio = study["parameters"] / summary["base_parameters"]
    return [
        _accuracy("S1.1", study, published.S1, command),
        _digit("S1.2", study, published.S1, command),
        Claim(
            "S1.3", "extra parameters below 0.25 %", "6,794 of 2,807,010",
            f"{study['parameters']:,} of {summary['base_parameters']:,} = {100 * ratio:.3f} %", n,
            verdict(ratio < 0.0025), "a count", command,
        ),
        Claim(
            "S1.4", "base weights bitwise unchanged; adapter off gives the base's errors exactly (compared: how many of each digit)", "0.953 again",
            f"base unchanged: {summary['base_unchanged']}; same counts per digit with the adapter off: "
            f"{study['adapter_off_equals_base']}", n,
            verdict(summary["base_unchanged"] and study["adapter_off_equals_base"]), "every leaf and every digit compared, all seeds", command,
        ),
        _others("S1.5", "where the damage goes (printed, never mentioned): 7, 3, 4 and 8", study, published.S1, command),
        cause("S1.6", summary, command),
        step("S1.7", summary, command),
        _precondition("S1.8", study, command),
        _slight("S1.9", study, command),
        beyond_half("S1.10", summary, command),
        *(dataclasses.replace(claim, published="-") for claim in _mitigations("S1.11", summary, command)),
    ]  # fmt: skip


def _mitigations(id_: str, summary: dict[str, Any], command: str) -> list[Claim]:
    """One for each, with numbers from 1."""
    rows = [row for row in summary["rows"] if row["kind"] == "mitigation"]
    found = enumerate(zip(rows, equal_gain.at_dose(rows), strict=True), 1)
    return [_mitigation(f"{id_}.{number}", row, one, command) for number, (row, one) in found]


def _accuracy(id_: str, study, of, command: str, more_: str = "") -> Claim:
    by_seed = study["by_seed"]
    fact = more("it falls: errors are added, all digits together", by_seed["net_errors_added"], digits=0)
    before, after = study["accuracy_before"], study["accuracy_after"]
    return settled(
        id_, "overall accuracy falls", [fact], after["n"], command,
        published=f"{of['before']} -> {of['after']}", ours=f"{text(before)} -> {text(after)}; {fact.said}: {fact.shown}",
        more="; before, " + one_run(of["before"], by_seed["accuracy_before"])
        + "; after, " + one_run(of["after"], by_seed["accuracy_after"], unchanged=before["mean"]) + more_,
    )  # fmt: skip


def _digit(id_: str, study, of, command: str, more_: str = "") -> Claim:
    before, after = (study["by_seed"][name] for name in ("digit_before", "digit_after"))
    fact = less("it falls", after, before, digits=1)
    was, became = of["digit"]
    found = settled(
        id_, "wrong on digit 9 falls", [fact], len(before), command, published=f"{was} -> {became}",
        ours=f"{text(study['digit_before'], 1)} -> {text(study['digit_after'], 1)}; difference {fact.shown}",
        more="; before, " + one_run(was, before, digits=0)
        + "; after, " + one_run(became, after, unchanged=study["digit_before"]["mean"], digits=0) + more_,
    )  # fmt: skip
    is_fitted = more_ and found.verdict == HOLDS
    return dataclasses.replace(found, verdict=f"{HOLDS} ({OWN_RATE})") if is_fitted else found


def _others(id_: str, statement: str, study, of, command: str) -> Claim:
    """Whether each digit that the study names suffers, and which unnamed ones do."""
    before, after = (np.asarray(study[name]) for name in ("before_by_seed", "after_by_seed"))  # [M, C]
    facts = holm([
        more(f"digit {digit}, over {RISE:.0f} errors more", after[:, digit], before[:, digit], bar=RISE, digits=1)
        for digit in range(9)
    ])  # fmt: skip
    named = list(of["others"])
    unnamed = [
        f"{d} ({text(estimate(after[:, d] - before[:, d]), 0)})" for d in range(9) if d not in named and facts[d].true
    ]
    runs = [
        f"{d}, {one_run(became, after[:, d], unchanged=before[:, d].mean(), digits=0)}"
        for d, (_, became) in of["others"].items()
    ]
    return settled(
        id_, statement, [facts[d] for d in named], len(before), command,
        published="; ".join(f"{d}: {a} -> {b}" for d, (a, b) in of["others"].items()),
        ours="; ".join(
            f"{d}: {text(study['before'][d], 1)} -> {text(study['after'][d], 1)}, difference {facts[d].shown}" for d in named
        ),
        more=f"; unnamed, over {RISE:.0f} more: {', '.join(unnamed) or 'none'}; digits after, {'; '.join(runs)}",
    )  # fmt: skip


def _mitigation(id_: str, row, found: equal_gain.Comparison, command: str) -> Claim:
    """Beside the study's setting when that has as many 9s wrong."""
    mends = less("it mends 9s", row["by_seed"]["digit_after"], row["by_seed"]["digit_before"], digits=1)
    label = f"at equal gain: {found.label}" + ("" if mends.true else " (and no settled gain on 9)")
    shown = (
        f"9s {text(row['digit_before'], 1)} -> {text(row['digit_after'], 1)}; added elsewhere {text(row['others_added'], 1)}; accuracy "
        f"{text(row['accuracy_after'])}"
    )
    reason = (
        f"with {row['wrong_at_dose']['mean']:.1f} 9s wrong on both ways it has added {text(row['added_at_dose'], 0)} errors elsewhere, the study's "
        f"setting {text(row['study_added_at_dose'], 0)}: difference {found.difference.shown}; {found.same.shown}; half of the 9s mended in "
        f"{row['at_half']['reached']} of {row['at_half']['of']} seeds"
    )
    facts = (found.difference, found.same, mends)
    return Claim(id_, f"mitigation: {row['name']}", "recommended only", shown, found.of, label, reason, command, facts)


def _confusions(id_: str, study, command: str) -> Claim:
    """What the errors that are added elsewhere are taken for."""
    added = np.subtract(study["confusions_after"], study["confusions_before"])[:, :9]  # [M, digit, taken for]
    to_nine = added[:, :, 9]
    total = added.sum(axis=(1, 2))
    share = to_nine.sum(axis=1) / np.where(total > 0, total, np.inf)  # of nothing, nothing
    order = sorted(range(9), key=lambda digit: -to_nine[:, digit].mean())
    facts = holm([
        more("over half of what is added is taken for 9", share, bar=0.5),
        *(
            more(f"{digit} -> 9 adds more than the other digits do on average", to_nine[:, digit], _mean_of_others(to_nine, digit), digits=0)
            for digit in (4, 7, 3, 1)
        ),
    ])  # fmt: skip
    return settled(
        id_, "classes suffer for their likeness to 9", facts, len(added), command, published="told, not counted",
        ours=f"taken for 9, for each error added in all (other mistakes become rarer, so that it may exceed 1): {text(estimate(share), 2)}; added "
        + ", ".join(f"{d} -> 9 {text(estimate(to_nine[:, d]), 0)}" for d in order),
    )  # fmt: skip


def _mean_of_others(values: np.ndarray, digit: int) -> np.ndarray:
    return np.delete(values, digit, axis=1).mean(axis=1)


def _few_shot(id_: str, study, command: str) -> Claim:
    """Damage for each 9 that is mended, in the first and the second half of the batches."""
    wrong, added = (np.asarray(study["curves"][name], float) for name in ("wrong", "added"))  # [M, K]
    middle = int(np.searchsorted(study["curve_batches"], study["curve_batches"][-1] / 2))
    mended = [wrong[:, 0] - wrong[:, middle], wrong[:, middle] - wrong[:, -1]]
    harm = [added[:, middle] - added[:, 0], added[:, -1] - added[:, middle]]
    if min(gain.min() for gain in mended) <= 0:
        fact = Fact(
            "later batches cost more for each 9 that they mend", None, "in some seed a half of the batches mends none"
        )
    else:
        price = [h / g for h, g in zip(harm, mended, strict=True)]
        fact = more("later batches cost more for each 9 that they mend", price[1], price[0], digits=1)
    statement = "few-shot training on one class overfits: later batches cost more for each 9 that they mend"
    return settled(
        id_, statement, [fact], len(wrong), command, published="told, not measured",
        ours=f"errors added for each 9 mended, second half of the batches minus first: {fact.shown}",
    )  # fmt: skip


def _precondition(id_: str, study, command: str) -> Claim:
    before = np.asarray(study["before_by_seed"])  # [M, C]
    others = np.delete(before, 9, axis=1)
    bases = int((before.argmax(axis=1) == 9).sum())
    is_worst = more("9 has more errors than the worst other digit", before[:, 9], others.max(axis=1), digits=1)
    is_poor = more("9 has more errors than the other digits on average", before[:, 9], others.mean(axis=1), digits=1)
    was = published.S1["digit"][0]
    return settled(
        id_, "the base is poor at digit 9", [is_worst, is_poor], len(before), command, published=f"{was} wrong, the most of those it lists",
        more=f"; it is the worst digit in {bases} of {len(before)} bases; {one_run(was, before[:, 9], unchanged=float(others.mean()), digits=0)}",
    )  # fmt: skip


def _slight(id_: str, study, command: str) -> Claim:
    lost = 100 * np.subtract(study["by_seed"]["accuracy_before"], study["by_seed"]["accuracy_after"])
    fact = less(f"accuracy falls by less than {SLIGHT:g} point", lost, bar=SLIGHT)
    return settled(
        id_, "the adapter only slightly reduces generalisation", [fact], len(lost), command, published="11.0 points lost in its own run",
    )  # fmt: skip
