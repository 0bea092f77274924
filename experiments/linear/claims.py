"""S2.1 to S2.3, from the summary of the linear teacher."""

from typing import Any

from experiments.common.statistics import text
from experiments.ledger.table import HOLDS, Claim, verdict

BAR = 1.01


def claims(summary: dict[str, Any], command: str) -> list[Claim]:
    rows = summary["rows"]
    n = rows[0]["final_ratio"]["n"]
    rules = {rule: [row for row in rows if row["rule"] == rule] for rule in ("alpha = c r", "alpha fixed")}
    return [_tracks(rows, n, command), _monotone(rules, n, command), _artifact(rules, summary, n, command)]


def _tracks(rows, n: int, command: str) -> Claim:
    worst = max(row["worst_final_ratio"] for row in rows)
    return Claim(
        "S2.1", "learned LoRA tracks the best rank-r error (Eckart-Young)", "a figure",
        f"error / bound at most {worst:.5f} over {len(rows)} (rank, rule) pairs and all seeds", n,
        verdict(worst <= BAR), f"bar {BAR}: every run converges onto the bound", command,
    )  # fmt: skip


def _monotone(rules, n: int, command: str) -> Claim:
    errors = {rule: [row["final_error"]["mean"] for row in rows] for rule, rows in rules.items()}
    falls = all(b < a for means in errors.values() for a, b in zip(means, means[1:], strict=False))
    shown = " > ".join(f"{e:.3g}" for e in errors["alpha = c r"])
    ranks = ", ".join(str(row["rank"]) for row in rules["alpha = c r"])
    return Claim(
        "S2.2", "a larger r improves the approximation monotonically", "a figure", f"{shown} at r = {ranks}", n,
        verdict(falls), "under both rules for alpha", command,
    )  # fmt: skip


def _artifact(rules, summary, n: int, command: str) -> Claim:
    fixed, scaled = rules["alpha fixed"][-1], rules["alpha = c r"][-1]
    apart = fixed["early_ratio"]["low"] is not None and fixed["early_ratio"]["low"] > scaled["early_ratio"]["high"]
    gone = max(fixed["worst_final_ratio"], scaled["worst_final_ratio"]) <= BAR
    return Claim(
        "S2.3", "with alpha fixed, a larger r shrinks alpha/r and causes optimisation artifacts; alpha = c r removes them",
        "a figure",
        f"error / bound at r = {fixed['rank']}, step {summary['early_step']}: {text(fixed['early_ratio'], 2)} fixed, "
        f"{text(scaled['early_ratio'], 2)} with alpha = c r", n,
        (f"{HOLDS} if training is short" if gone else HOLDS) if apart else verdict(False),
        f"the artifact is one of speed: after {summary['steps']} steps both are on the bound" if gone else "both rules differ to the end",
        command,
    )  # fmt: skip
