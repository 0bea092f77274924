"""Error against rank: on white inputs, and on each kind of inputs."""

from typing import Any

from etils import epath

from experiments.common.figures import style
from experiments.linear.settings import RULES

RULE_COLORS = dict(zip(RULES, ("#1f77b4", "#ff7f0e"), strict=True))
EARLY_STEP = 100
TITLES = {
    "white": "white inputs",
    "anisotropic": "anisotropic inputs (condition 100)",
    "few": "48 inputs of 64 features",
    "noisy": "256 inputs, noisy labels",
}


def error_vs_rank(summary: dict[str, Any], path: epath.Path) -> epath.Path:
    """White inputs: LoRA at the end on its bound, and where it was at an early step."""
    figure, axis = style.new()
    rows = of_inputs(summary["rows"], summary["rows"][0]["inputs"])
    first = [row for row in rows if row["rule"] == RULES[0]]
    ranks = [row["rank"] for row in first]
    axis.plot(ranks, means(first, "bound"), "k-", linewidth=1, label="best of rank r")
    for (rule, color), marker, size in zip(RULE_COLORS.items(), ("o", "x"), (11, 6), strict=True):
        of = [row for row in rows if row["rule"] == rule]
        if not of:
            continue
        axis.plot(
            ranks, means(of, "error"), marker, color=color, markersize=size, fillstyle="none",
            label=f"{rule}, step {summary['steps']}",
        )  # fmt: skip
        early = [
            row for row in summary["early"]
            if (row["rule"], row["step"], row["rate"]) == (rule, EARLY_STEP, "shared")
        ]  # fmt: skip
        if early:
            with_intervals(axis, early, "error", "--", color=color, label=f"{rule}, step {EARLY_STEP}")
    style.rank_axis(axis, ranks)
    axis.set_yscale("log")
    axis.set_ylabel("squared error of the learned matrix")
    axis.set_title(
        f"Linear teacher, {TITLES[rows[0]['inputs']]}, one rate ({summary['shared_rate']:g}), n = {rows[0]['error']['n']}",
        fontsize=10,
    )
    axis.legend(frameon=False, fontsize=8)
    return style.save(figure, path)


def inputs(summary: dict[str, Any], path: epath.Path) -> epath.Path:
    """A panel for each kind of inputs: training error on its bound, and the error of the matrix."""
    kinds = list(dict.fromkeys(row["inputs"] for row in summary["rows"]))
    figure, axes = style.new(4 * len(kinds), 4.2, columns=len(kinds), sharey=True)
    for axis, kind in zip(axes, kinds, strict=True):
        rows = [row for row in of_inputs(summary["rows"], kind) if row["rule"] == RULES[0]]
        ranks = [row["rank"] for row in rows]
        axis.plot(ranks, means(rows, "bound"), "-", color="#1f77b4", label="least training error of rank r")
        with_intervals(axis, rows, "error", "o", color="#1f77b4", fillstyle="none", label="LoRA, training inputs")
        axis.plot(
            ranks, means(rows, "best_matrix_error"), "-", color="#d62728", label="that matrix, on new white inputs"
        )
        with_intervals(
            axis, rows, "matrix_error", "s", color="#d62728", fillstyle="none", label="LoRA, new white inputs"
        )
        axis.plot(ranks, means(rows, "eckart_young"), "k:", label="Eckart-Young: best matrix of rank r")
        style.rank_axis(axis, ranks)
        axis.set_yscale("log")
        axis.set_title(TITLES[kind], fontsize=10)
    axes[0].set_ylabel("squared error")
    axes[0].legend(frameon=False, fontsize=8, loc="lower left")
    figure.suptitle(
        f"Training error beside its bound, and what the same matrix is worth on new inputs (n = {rows[0]['error']['n']})", fontsize=11
    )  # fmt: skip
    return style.save(figure, path)


def of_inputs(rows: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """The rows of one kind of inputs, in order."""
    return [row for row in rows if row["inputs"] == kind]


def means(rows: list[dict[str, Any]], metric: str) -> list[float]:
    """Of each row."""
    return [row[metric]["mean"] for row in rows]


def with_intervals(axis, rows: list[dict[str, Any]], metric: str, line: str, **more: Any) -> None:
    """Means over ranks with their intervals."""
    estimates = [row[metric] for row in rows]
    axis.errorbar(
        [row["rank"] for row in rows], means(rows, metric), yerr=style.error_bars(estimates), fmt=line, capsize=3, **more
    )  # fmt: skip
