"""S0 and S1, from the summaries of the digit-9 studies."""

from typing import Any

from experiments.common.statistics import text
from experiments.ledger.table import FAILS, HOLDS, Claim, against, verdict

S0_PUBLISHED = {"before": 0.962, "after": 0.941, "digit": (81, 14), "others": {4: (24, 112), 1: (28, 71), 3: (64, 90)}}
S1_PUBLISHED = {
    "before": 0.953, "after": 0.843, "digit": (107, 11),
    "others": {7: (52, 677), 3: (95, 201), 4: (19, 186), 8: (19, 193)},
}  # fmt: skip


def s0(summary: dict[str, Any], command: str) -> list[Claim]:
    study = summary["rows"][0]
    return [
        _accuracy("S0.1", study, S0_PUBLISHED, command),
        _digit("S0.2", study, S0_PUBLISHED, command),
        _others("S0.3", "digits that look like 9 explode", study, S0_PUBLISHED, command),
        _cause(summary, command),
        *(_mitigation(f"S0.5.{i + 1}", row, study, command) for i, row in enumerate(_of_kind(summary, "mitigation"))),
    ]


def s1(summary: dict[str, Any], command: str) -> list[Claim]:
    study = summary["rows"][0]
    n = study["accuracy_after"]["n"]
    ratio = study["parameters"] / summary["base_parameters"]
    return [
        _accuracy("S1.1", study, S1_PUBLISHED, command),
        _digit("S1.2", study, S1_PUBLISHED, command),
        Claim(
            "S1.3", "extra parameters below 0.25 %", "6,794 of 2,807,010",
            f"{study['parameters']:,} of {summary['base_parameters']:,} = {100 * ratio:.3f} %", n,
            verdict(ratio < 0.0025), "a count", command,
        ),
        Claim(
            "S1.4", "base weights bitwise unchanged; adapter off gives the base's errors exactly", "0.953 again",
            f"base unchanged: {summary['base_unchanged']}; same counts per digit with the adapter off: "
            f"{study['adapter_off_equals_base']}", n,
            verdict(summary["base_unchanged"] and study["adapter_off_equals_base"]), "every leaf and every digit compared, all seeds", command,
        ),
        _others("S1.5", "where the damage goes (printed, never mentioned)", study, S1_PUBLISHED, command),
    ]  # fmt: skip


def _of_kind(summary, kind: str) -> list[dict[str, Any]]:
    return [row for row in summary["rows"] if row["kind"] == kind]


def _accuracy(id_: str, study, published, command: str) -> Claim:
    fell = study["net_errors_added"]["low"] > 0
    return Claim(
        id_, "overall accuracy falls", f"{published['before']} -> {published['after']}",
        f"{against(published['before'], study['accuracy_before'])} -> {against(published['after'], study['accuracy_after'])}",
        study["accuracy_after"]["n"], verdict(fell), f"errors added, paired by seed: {text(study['net_errors_added'], 0)}", command,
    )  # fmt: skip


def _digit(id_: str, study, published, command: str) -> Claim:
    before, after = published["digit"]
    fell = study["digit_after"]["high"] < study["digit_before"]["low"]
    return Claim(
        id_, "wrong on digit 9 falls", f"{before} -> {after}",
        f"{against(before, study['digit_before'], 1)} -> {against(after, study['digit_after'], 1)}",
        study["digit_after"]["n"], verdict(fell), "the intervals are apart" if fell else "the intervals overlap", command,
    )  # fmt: skip


def _others(id_: str, statement: str, study, published, command: str) -> Claim:
    """Whether the digits the study names are those that suffer most."""
    named = set(published["others"])
    added = {d: study["after"][d]["mean"] - study["before"][d]["mean"] for d in range(9)}
    worst = sorted(added, key=added.get, reverse=True)[: len(named)]
    risen = {d for d in named & set(worst) if study["after"][d]["low"] > study["before"][d]["mean"]}
    partly = f"{HOLDS} for {', '.join(map(str, sorted(risen)))} only" if risen else FAILS
    said = HOLDS if set(worst) == named else partly
    shown = "; ".join(
        f"{d}: {text(study['before'][d], 1)} -> {text(study['after'][d], 1)}" for d in published["others"]
    )
    return Claim(
        id_, statement, "; ".join(f"{d}: {a} -> {b}" for d, (a, b) in published["others"].items()), shown,
        study["accuracy_after"]["n"], said,
        "most errors added on " + ", ".join(f"{d} (+{added[d]:.0f})" for d in worst), command,
    )  # fmt: skip


def _cause(summary, command: str) -> Claim:
    """LoRA's damage beside that of tuning without any low-rank update, where half of the 9s are mended."""
    study = summary["rows"][0]
    equal = "others_added_at_equal_gain"
    rivals = [row for row in _of_kind(summary, "suspect") if row[equal] is not None]
    statement = "the cause is the low-rank update, which shares directions across classes"
    if study[equal] is None or not rivals:
        n, why = study["accuracy_after"]["n"], "too few batches for half of the 9s to be mended in every run"
        return Claim("S0.4", statement, "not tested", "-", n, "not measured", why, command)
    shown = "; ".join(f"{row['name']} {text(row[equal], 0)}" for row in [study, *rivals])
    less = [row["name"] for row in rivals if row[equal]["high"] < study[equal]["low"]]
    return Claim(
        "S0.4", statement, "not tested",
        f"errors added elsewhere once half of the 9s are mended: {shown}", study["accuracy_after"]["n"],
        HOLDS if less else FAILS,
        f"less damage without LoRA: {', '.join(less)}" if less
        else "full fine-tuning and bias-only tuning on the same batches do as much damage for the same gain: it is the one-class data's",
        command,
    )  # fmt: skip


def _mitigation(id_: str, row, study, command: str) -> Claim:
    """Works: less damage than the study's setting for as much gain, and more than training a little less would do."""
    gentler = row["others_added"]["high"] < study["others_added"]["low"]
    keeps_gain = row["digit_after"]["high"] < row["digit_before"]["mean"]
    dose = _on_the_way(study, row["digit_after"]["mean"])
    if not gentler:
        said = FAILS
    elif not keeps_gain:
        said = "holds if digit 9 need not gain"
    elif row["others_added"]["high"] < dose:
        said = HOLDS
    else:
        said = "holds as a smaller dose only"
    return Claim(
        id_, f"mitigation: {row['name']}", "recommended only",
        f"9s {text(row['digit_before'], 1)} -> {text(row['digit_after'], 1)}; added elsewhere {text(row['others_added'], 1)}; "
        f"accuracy {text(row['accuracy_after'])}",
        row["accuracy_after"]["n"], said,
        f"the study's setting adds {text(study['others_added'], 1)} in the end, and {dose:.0f} when it has as many 9s wrong", command,
    )  # fmt: skip


def _on_the_way(study, digit_errors: float, digit: int = 9) -> float:
    """Errors the study's own run has added elsewhere when its 9s come down to `digit_errors`: means over seeds."""
    nines = [errors[digit] for errors in study["curve"]]
    others = [sum(errors) - errors[digit] for errors in study["curve"]]
    for i in range(1, len(nines)):
        if nines[i] <= digit_errors < nines[i - 1]:
            share = (nines[i - 1] - digit_errors) / (nines[i - 1] - nines[i])
            return others[i - 1] + share * (others[i] - others[i - 1]) - others[0]
    return 0.0 if digit_errors >= nines[0] else others[-1] - others[0]
