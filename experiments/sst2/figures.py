"""Figures and table of S2, part II, from its summary."""

from typing import Any

import numpy as np
from etils import epath

from experiments.common.figures import style
from experiments.common.figures.regimes import band, points, rows_of
from experiments.common.statistics import estimate
from experiments.sst2 import rank_figures
from experiments.sst2.report import table as table

COLORS = {**style.COLORS, "from scratch": "#9467bd", "LoRA all linear": "#17becf"}


def draw(summary: dict[str, Any], folder: epath.Path) -> list[epath.Path]:
    """Learning curves and accuracy against parameters; against rank, by rule for alpha, and the rank of full's update, where the run has these."""
    figures = [_learning_curves(summary, folder / "learning_curves.png")]
    if len({row["regime"] for row in summary["rows"]}) > 1:
        figures.append(_against_parameters(summary, folder / "accuracy_vs_parameters.png"))
    if rows_of(summary, "LoRA"):
        figures.append(_against_rank(summary, folder / "accuracy_vs_rank.png"))
    if summary["scaling"]:
        figures.append(rank_figures.scaling(summary, folder / "scaling_vs_rank.png"))
    if summary["spectrum"]:
        figures.append(rank_figures.spectrum(summary, folder / "full_update_spectrum.png"))
    return figures


def _setting(summary: dict[str, Any]) -> str:
    """What was trained on what."""
    data = summary["data"]
    kind = "SST-2" if data["is_full_sst2"] else "tweets, not SST-2"
    base = "MiniLM" if "MiniLM" in data.get("base", {}).get("source", "") else "BERT"
    return f"{base} on {kind}, {summary['scored']:,} validation sentences"


def _n(rows: list[dict[str, Any]]) -> str:
    """`n = 10` or, where rows differ, `n = 3 to 10`."""
    sizes = sorted({row["accuracy"]["n"] for row in rows})
    return f"n = {sizes[0]}" + (f" to {sizes[-1]}" if len(sizes) > 1 else "") + " seeds"


def _name(row: dict[str, Any]) -> str:
    return {"full": "full fine-tuning"}.get(row["regime"], row["regime"]) + (
        f", r = {row['rank']}" if row["rank"] else ""
    )


def _against_rank(summary, path: epath.Path) -> epath.Path:
    """Accuracy, and beside it each rank minus full (or minus r = 8, where full is not there), seed by seed."""
    figure, axes = style.new(width=12, columns=2)
    rows = rows_of(summary, "LoRA")
    ranks = [row["rank"] for row in rows]
    points(axes[0], ranks, [row["accuracy"] for row in rows], "o-", color=COLORS["LoRA"], label="LoRA, query and value")
    own = len({row["learning_rate"] for row in rows}) > 1
    for row in rows if own else ():
        at = (row["rank"], 100 * row["accuracy"]["mean"])
        axes[0].annotate(
            f"{row['learning_rate']:.1e}".replace("e-0", "e-"),
            at,
            (0, 12),
            textcoords="offset points",
            fontsize=7,
            ha="center",
        )
    for regime in ("full", "head only"):
        for row in rows_of(summary, regime):
            band(axes[0], row, COLORS[row["regime"]])
    _widen(axes[0])
    axes[0].set_ylabel(f"validation accuracy, % (1 point is {summary['scored'] / 100:.1f} sentences)")
    axes[0].set_title("accuracy", fontsize=9)
    axes[0].legend(frameon=False, fontsize=8)
    _differences(axes[1], summary, rows)
    for axis in axes:
        style.rank_axis(axis, ranks, "LoRA rank r")
        axis.set_xlim(ranks[0] / 1.3, ranks[-1] * 1.3)
    rates = (
        "learning rates printed, each rank's own"
        if own
        else f"learning rate {rows[0]['learning_rate']:g} for all ranks"
    )
    figure.suptitle(
        f"LoRA against rank, {rates}; {_setting(summary)}; mean and 95 % interval over {_n([*rows, *rows_of(summary, 'full')])}",
        fontsize=9,
    )
    return style.save(figure, path)


def _widen(axis, least: float = 6.0) -> None:
    """At least so many points on the axis: a sentence or two are not to look large."""
    low, high = axis.get_ylim()
    if high - low < least:
        middle = (low + high) / 2
        axis.set_ylim(middle - least / 2, middle + least / 2)


def _differences(axis, summary, rows: list[dict[str, Any]]) -> None:
    reference = next(iter(rows_of(summary, "full")), None) or next((row for row in rows if row["rank"] == 8), rows[-1])
    for row in rows:
        n = min(row["accuracy"]["n"], reference["accuracy"]["n"])
        values = np.subtract(row["by_seed"]["accuracy"][:n], reference["by_seed"]["accuracy"][:n])
        points(axis, [row["rank"]], [estimate(values.tolist())], "o", color=COLORS["LoRA"])
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set_ylabel("points")
    axis.set_title(f"minus {_name(reference)}, seed by seed (n = {n})", fontsize=9)


def _against_parameters(summary, path: epath.Path) -> epath.Path:
    """A line for each regime and rank, by what trains."""
    rows = sorted(summary["rows"], key=lambda row: (row["parameters"], row["regime"] == "from scratch"))
    figure, axis = style.new(width=9, height=1.2 + 0.36 * len(rows))
    for place, row in enumerate(rows):
        e = row["accuracy"]
        bars = [[100 * side[0]] for side in style.error_bars([e])]
        axis.errorbar([100 * e["mean"]], [place], xerr=bars, fmt="o", capsize=3, color=COLORS[row["regime"]])
    axis.set_yticks(
        range(len(rows)),
        [f"{_name(row)}: {row['parameters']:,} ({100 * row['share']:.2f} %), n = {row['accuracy']['n']}" for row in rows],
        fontsize=8,
    )  # fmt: skip
    axis.set_xlabel("validation accuracy, %, mean and 95 % interval over seeds")
    axis.set_title(f"What trains, and how well it does: {_setting(summary)}", fontsize=9)
    return style.save(figure, path)


def _learning_curves(summary, path: epath.Path) -> epath.Path:
    """Regimes, and LoRA by rank, with bands; the start, which is chance, is left out."""
    regimes = [row for row in summary["rows"] if row["regime"] != "LoRA" or row["rank"] == 8]
    rows = rows_of(summary, "LoRA")
    panels = []
    if len(regimes) > 1 or not rows:
        panels.append(("regimes", [(row, COLORS[row["regime"]]) for row in regimes]))
    if rows:
        shades = style.plt.get_cmap("viridis")(np.linspace(0, 0.9, len(rows)))
        panels.append(("LoRA on query and value, by rank", list(zip(rows, shades, strict=True))))
    figure, axes = style.new(width=6 * len(panels) + 1, columns=len(panels), sharey=True)
    axes = np.atleast_1d(axes)
    for axis, (title, lines) in zip(axes, panels, strict=True):
        for row, color in lines:
            _curve(axis, row, summary["updates"], color)
        axis.set_xlabel("updates")
        axis.set_title(title, fontsize=9)
        axis.legend(frameon=False, fontsize=8)
    axes[0].set_ylabel("validation accuracy, %")
    figure.suptitle(
        f"While training: {_setting(summary)}; mean and 95 % interval over {_n(summary['rows'])}", fontsize=9
    )
    return style.save(figure, path)


def _curve(axis, row: dict[str, Any], updates: int, color) -> None:
    at = np.linspace(0, updates, len(row["curves"][0]))[1:]
    found = [estimate(values) for values in np.transpose(row["curves"])[1:].tolist()]
    mean = [100 * e["mean"] for e in found]
    axis.plot(at, mean, color=color, label=_name(row), marker="." if len(at) < 3 else None)
    if found[0]["low"] is not None:
        axis.fill_between(
            at, [100 * e["low"] for e in found], [100 * e["high"] for e in found], color=color, alpha=0.12
        )
