"""S3, from the summary of the new-digits study."""

from typing import Any

from experiments.common.statistics import reaches, text
from experiments.ledger.table import FAILS, HOLDS, Claim, verdict

PUBLISHED_PARAMETERS = 41_376  # 16 x 2,586; the study prints 41,367


def claims(summary: dict[str, Any], command: str) -> list[Claim]:
    base, rows = summary["base"], summary["rows"]
    study = next(row for row in rows if row["kind"] == "study")
    n = base["overall"]["n"]
    share = study["parameters"] / (base["parameters"] + study["parameters"])
    return [
        Claim(
            "S3.1", "the base on 0-7 / on 8-9 / overall", "98.74 % / 0.00 % / 79.17 %", _three(base), n,
            verdict(base["new"]["mean"] == 0 and base["old"]["low"] > 0.97), f"trained on {base['training_images']:,} images of 0-7", command,
        ),
        Claim(
            "S3.2", "LoRA parameters at r = 16 on every layer", "41,367, 6.8 %", f"{study['parameters']:,}, {100 * share:.1f} %", n,
            f"{HOLDS} but for a misprint" if study["parameters"] == PUBLISHED_PARAMETERS else FAILS, "16 x 2,586 = 41,376", command,
        ),
        _after(summary, study, n, command),
        *(_later(row, summary["bars"], command) for row in rows if row["kind"] == "later"),
        Claim(
            "S3.4", "adapters can be added and removed without touching the base", "modularity",
            f"base bitwise unchanged: {summary['base_unchanged']}; errors with the adapter off equal the base's: "
            f"{all(row['adapter_off_equals_base'] for row in rows)}", n,
            verdict(summary["base_unchanged"] and all(row["adapter_off_equals_base"] for row in rows)), f"in all {len(rows)} recipes", command,
        ),
    ]  # fmt: skip


def _three(row) -> str:
    return " / ".join(f"{text(row[group], 2, 100)} %" for group in ("old", "new", "overall"))


def _after(summary, study, n: int, command: str) -> Claim:
    """S3.3: the study's recipe, and the least replay that reaches it."""
    bars = summary["bars"]
    honest = [row for row in summary["rows"] if row["kind"] in ("curve", "honest") and reaches(row, bars)]
    if reaches(study, bars):
        said, reason = HOLDS, "on 8-9 alone"
    elif honest:
        least = min(honest, key=lambda row: row["recipe"]["replay"])
        ratio, epochs = least["recipe"]["replay"], least["recipe"]["epochs"]
        said = f"{HOLDS} if old digits are replayed, {ratio:g} per new one, for {epochs} epochs"
        reason = f"8-9 alone forgets 0-7; {least['name']}: {_three(least)}"
    else:
        said, reason = FAILS, "8-9 alone forgets 0-7, and no replay ratio tried reaches every bar"
    return Claim(
        "S3.3",
        "after LoRA on 8-9: 0-7 / 8-9 / overall",
        "98.7 % kept / >= 95 % / >= 98 %",
        _three(study),
        n,
        said,
        reason,
        command,
    )


def _later(row, bars: dict[str, float], command: str) -> Claim:
    missed = [
        f"{group} {100 * row[group]['mean']:.2f} < {100 * bar:g}"
        for group, bar in bars.items()
        if row[group]["mean"] < bar
    ]
    return Claim(
        "S3.3'", f"{row['name']} ({row['parameters']:,} parameters) reaches S3.3", "-", _three(row), row["overall"]["n"],
        verdict(not missed), "misses " + ", ".join(missed) if missed else "all three bars are met", command,
    )  # fmt: skip
