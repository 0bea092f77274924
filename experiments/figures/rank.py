"""Figures and table of the MNIST rank sweep, from its summary."""

import pathlib
from typing import Any

from experiments.common import style
from experiments.common.statistics import text


def table(summary: dict[str, Any]) -> str:
    """One line per regime and rank."""
    lines = [
        f"{'regime':<10} {'rank':>4} {'lr':>7} {'parameters':>10} {'share':>8}  {'accuracy, mean [95 % interval]':<32} {'0-7':>6} {'8-9':>6}  n"
    ]
    for row in summary["rows"]:
        lines.append(
            f"{row['regime']:<10} {row['rank'] or '':>4} {row['learning_rate']:>7g} {row['parameters']:>10,} {100 * row['share']:>7.2f}%  "
            f"{text(row['accuracy'], 2, 100) + ' %':<32} {100 * row['accuracy_0_7']['mean']:>6.2f} {100 * row['accuracy_8_9']['mean']:>6.2f}"
            f"  {row['accuracy']['n']}"
        )
    base = summary["base"]
    lines.append(
        f"base (0-7 only): {100 * base['accuracy']['mean']:.2f} % overall, {100 * base['accuracy_0_7']['mean']:.2f} % on 0-7, "
        f"{100 * base['accuracy_8_9']['mean']:.2f} % on 8-9"
    )
    return "\n".join(lines)


def draw(summary: dict[str, Any], folder: pathlib.Path) -> list[pathlib.Path]:
    """accuracy_vs_rank.png and accuracy_vs_parameters.png."""
    return [
        _against_rank(summary, folder / "accuracy_vs_rank.png"),
        _against_parameters(summary, folder / "accuracy_vs_parameters.png"),
    ]


def _rows(summary: dict[str, Any], regime: str) -> list[dict[str, Any]]:
    return [row for row in summary["rows"] if row["regime"] == regime]


def _title(summary: dict[str, Any]) -> str:
    data = summary["data"]
    kind = "all of MNIST" if data["is_full_mnist"] else "5,000 MNIST images"
    return f"Base knows 0-7, adapted to 0-9 ({kind}; mean and 95 % interval, n = {summary['rows'][0]['accuracy']['n']} seeds)"


def _points(axis, rows, x, regime: str, *, line: str) -> None:
    estimates = [row["accuracy"] for row in rows]
    means = [100 * e["mean"] for e in estimates]
    bars = [[100 * v for v in side] for side in style.error_bars(estimates)]
    axis.errorbar(x, means, yerr=bars, fmt=line, capsize=3, color=style.COLORS[regime], label=regime)


def _against_rank(summary, path: pathlib.Path) -> pathlib.Path:
    figure, axis = style.new()
    rows = _rows(summary, "LoRA")
    _points(axis, rows, [row["rank"] for row in rows], "LoRA", line="o-")
    for regime in ("head only", "full"):
        e = _rows(summary, regime)[0]["accuracy"]
        axis.axhline(
            100 * e["mean"],
            color=style.COLORS[regime],
            linestyle="--",
            label=f"{regime} fine-tuning" if regime == "full" else regime,
        )
        if e["low"] is not None:
            axis.axhspan(100 * e["low"], 100 * e["high"], color=style.COLORS[regime], alpha=0.15)
    style.rank_axis(axis, [row["rank"] for row in rows], "LoRA rank r (alpha = c r)")
    axis.set_ylabel("test accuracy, %")
    axis.set_title(_title(summary), fontsize=9)
    axis.legend(frameon=False)
    return style.save(figure, path)


def _against_parameters(summary, path: pathlib.Path) -> pathlib.Path:
    figure, axis = style.new()
    for regime in ("head only", "LoRA", "full"):
        rows = _rows(summary, regime)
        _points(axis, rows, [row["parameters"] for row in rows], regime, line="o-" if regime == "LoRA" else "s")
    for row in _rows(summary, "LoRA"):
        axis.annotate(
            f"r={row['rank']}",
            (row["parameters"], 100 * row["accuracy"]["mean"]),
            textcoords="offset points",
            xytext=(5, -12),
            fontsize=8,
        )
    axis.set_xscale("log")
    axis.set_xlabel("trainable parameters")
    axis.set_ylabel("test accuracy, %")
    axis.set_title(_title(summary), fontsize=9)
    axis.legend(frameon=False, loc="lower right")
    return style.save(figure, path)
