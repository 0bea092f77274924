"""Figures and table of the linear teacher, from its summary."""

from typing import Any

from etils import epath

from experiments.common.figures import style
from experiments.common.statistics import text

RULE_COLORS = {"alpha = c r": "#1f77b4", "alpha fixed": "#ff7f0e"}


def table(summary: dict[str, Any]) -> str:
    """Error over bound per rule and rank, early and at the end."""
    lines = [
        f"{'rule':<12} {'rank':>4} {'bound':>8} {'error / bound, step ' + str(summary['early_step']):>26} {'at the end':>28}  n"
    ]
    for row in summary["rows"]:
        lines.append(
            f"{row['rule']:<12} {row['rank']:>4} {row['bound']['mean']:>8.4f} {text(row['early_ratio'], 3):>26} "
            f"{text(row['final_ratio'], 5):>28}  {row['final_ratio']['n']}"
        )
    return "\n".join(lines)


def draw(summary: dict[str, Any], folder: epath.Path) -> list[epath.Path]:
    """error_vs_rank.png (S2.1, S2.2) and fixed_alpha_artifact.png (S2.3)."""
    return [
        _error_vs_rank(summary, folder / "error_vs_rank.png"),
        _artifact(summary, folder / "fixed_alpha_artifact.png"),
    ]


def _by_rule(summary, rule: str) -> list[dict[str, Any]]:
    return [row for row in summary["rows"] if row["rule"] == rule]


def _error_vs_rank(summary, path: epath.Path) -> epath.Path:
    figure, axis = style.new()
    for (rule, color), marker, size in zip(RULE_COLORS.items(), ("o", "x"), (10, 6), strict=True):
        rows = _by_rule(summary, rule)
        ranks = [row["rank"] for row in rows]
        estimates = [row["final_error"] for row in rows]
        axis.errorbar(
            ranks,
            [e["mean"] for e in estimates],
            yerr=style.error_bars(estimates),
            fmt=f"{marker}-",
            markersize=size,
            capsize=3,
            color=color,
            label=f"LoRA, {rule}",
        )
    axis.plot(ranks, [row["bound"]["mean"] for row in rows], "k--", label="Eckart-Young bound")
    style.rank_axis(axis, ranks)
    axis.set_yscale("log")
    axis.set_ylabel("squared error of the learned matrix")
    axis.set_title(
        f"Linear teacher, at convergence ({summary['steps']} steps, n = {rows[0]['final_error']['n']})", fontsize=10
    )
    axis.legend(frameon=False)
    return style.save(figure, path)


def _artifact(summary, path: epath.Path) -> epath.Path:
    figure, (left, right) = style.new(11, 4.5, columns=2)
    for rule, color in RULE_COLORS.items():
        rows = _by_rule(summary, rule)
        ranks = [row["rank"] for row in rows]
        for key, line, when in (
            ("early_ratio", "o-", f"step {summary['early_step']}"),
            ("final_ratio", "s:", f"step {summary['steps']}"),
        ):
            estimates = [row[key] for row in rows]
            left.errorbar(
                ranks,
                [e["mean"] for e in estimates],
                yerr=style.error_bars(estimates),
                fmt=line,
                capsize=3,
                color=color,
                label=f"{rule}, {when}",
            )
        top = rows[-1]
        right.plot(summary["curve_steps"], top["curve"], color=color, label=f"{rule}, r = {top['rank']}")
    left.axhline(1, color="k", linestyle="--", linewidth=1)
    style.rank_axis(left, ranks)
    left.set_yscale("log")
    left.set_ylabel("error / Eckart-Young bound")
    left.set_title("A fixed alpha makes high ranks look worse, early", fontsize=10)
    right.axhline(1, color="k", linestyle="--", linewidth=1, label="bound")
    right.set_xscale("symlog", linthresh=summary["curve_steps"][1])
    right.set_yscale("log")
    right.set_xlim(left=0)
    right.set_xlabel("step")
    right.set_title("The same rank, under both rules", fontsize=10)
    for axis in (left, right):
        axis.legend(frameon=False, fontsize=8)
    return style.save(figure, path)
