"""Figures and table of the rank sweep, from its summary."""

from typing import Any

import numpy as np
from etils import epath

from experiments.common.figures import style
from experiments.common.figures.regimes import band, points, rows_of
from experiments.common.statistics import estimate, text
from experiments.ledger import declared

EDGE = "*"


def table(summary: dict[str, Any]) -> str:
    """One line per regime and rank."""
    old, new = (_named(summary["data"][group]) for group in ("old", "new"))
    head = (
        f"{'regime':<10} {'rank':>4} {'lr':>8} {'parameters':>10} {'share':>8}  {'accuracy, mean [95 % interval]':<32}"
    )
    lines = [f"{head} {'minus full, points':<22} {old:>8} {new:>8}  n"]
    (full,) = rows_of(summary, "full")
    for row in summary["rows"]:
        rate = f"{row['learning_rate']:g}{EDGE if row['rate_at_edge'] else ''}"
        lines.append(
            f"{row['regime']:<10} {row['rank'] or '':>4} {rate:>8} {row['parameters']:>10,} {100 * row['share']:>7.2f}%  "
            f"{text(row['accuracy'], 2, 100) + ' %':<32} {'' if row is full else text(_minus(row, full), 2, 100):<22} "
            f"{100 * row['accuracy_old']['mean']:>8.2f} {100 * row['accuracy_new']['mean']:>8.2f}  {row['accuracy']['n']}"
        )
    base = summary["base"]
    lines.append(
        f"bases ({old} only): {100 * base['accuracy']['mean']:.2f} % overall, {100 * base['accuracy_old']['mean']:.2f} % on {old}, "
        f"{100 * base['accuracy_new']['mean']:.2f} % on {new}"
    )
    if any(row["rate_at_edge"] for row in summary["rows"]):
        lines.append(f"{EDGE} the lowest or the highest rate that was tried: a better one may lie beyond")
    return "\n".join(lines)


def _named(classes: list[str], most: int = 12) -> str:
    """`0-7` of digits in a row, and other names one by one."""
    if all(name.isdecimal() for name in classes) and len(classes) > 1:
        first, last = int(classes[0]), int(classes[-1])
        if [int(name) for name in classes] == list(range(first, last + 1)):
            return f"{first}-{last}"
    said = ",".join(classes)
    return said if len(said) <= most else f"{len(classes)} classes"


def _minus(row: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The difference in accuracy, paired by base."""
    return estimate(np.subtract(row["by_seed"]["accuracy"], other["by_seed"]["accuracy"]).tolist())


def draw(summary: dict[str, Any], folder: epath.Path) -> list[epath.Path]:
    """accuracy_vs_rank.png and rates.png."""
    return [_against_rank(summary, folder / "accuracy_vs_rank.png"), _rates(summary, folder / "rates.png")]


def _title(summary: dict[str, Any]) -> str:
    data, settings = summary["data"], summary["settings"]
    images = "all of MNIST" if data["is_full_mnist"] else f"{data['train'] + data['test']:,} MNIST images"
    kind = data["source"] if data["source"].endswith(".npz") else images
    old, new, n = _named(data["old"]), _named(data["new"]), summary["rows"][0]["accuracy"]["n"]
    said = f"{kind}; {settings['steps']} steps; mean and 95 % interval, n = {n} bases"
    return f"A base that knows {old} learns {new}, {old} replayed ({said})"


def _against_rank(summary, path: epath.Path) -> epath.Path:
    """Accuracies, and beside them LoRA minus full, base by base."""
    figure, (left, right) = style.new(11, 4.5, columns=2)
    rows, (full,) = rows_of(summary, "LoRA"), rows_of(summary, "full")
    ranks = [row["rank"] for row in rows]
    points(left, ranks, [row["accuracy"] for row in rows], "o-", color=style.COLORS["LoRA"], label="LoRA")
    for name in ("head only", "full"):
        band(left, rows_of(summary, name)[0], style.COLORS[name])
    left.set_ylabel("test accuracy, %")
    left.set_title("each at its own best learning rate", fontsize=10)
    points(right, ranks, [_minus(row, full) for row in rows], "o-", color=style.COLORS["LoRA"])
    for row in rows:
        each = 100 * np.subtract(row["by_seed"]["accuracy"], full["by_seed"]["accuracy"])
        right.plot([row["rank"]] * len(each), each, ".", color="k", alpha=0.25, zorder=1)
    margin = declared.of("R.1").margin
    right.axhspan(-margin, margin, color="#2ca02c", alpha=0.1, label=f"within {margin:g} points")
    right.axhline(0, color=style.COLORS["full"], linestyle="--")
    right.set_ylabel("LoRA minus full fine-tuning, points")
    right.set_title("the difference, base by base (dots)", fontsize=10)
    for axis in (left, right):
        style.rank_axis(axis, ranks, "LoRA rank r (alpha = c r)")
        axis.legend(frameon=False)
    figure.suptitle(_title(summary), fontsize=10)
    return style.save(figure, path)


def _rates(summary, path: epath.Path) -> epath.Path:
    """Validation errors against the learning rate; a ring marks the one that is taken."""
    figure, axis = style.new(8)
    colors = style.plt.get_cmap("viridis")
    ranks = [row["rank"] for row in rows_of(summary, "LoRA")]
    for row in summary["rows"]:
        known = {float(rate): errors for rate, errors in row["validation_errors_by_rate"].items() if errors is not None}
        rates = sorted(known)
        is_lora = row["rank"] is not None
        color = (
            colors(0.9 * ranks.index(row["rank"]) / max(1, len(ranks) - 1)) if is_lora else style.COLORS[row["regime"]]
        )
        label = f"LoRA, r = {row['rank']}" if is_lora else row["regime"]
        axis.plot(
            rates, [known[rate] for rate in rates], "o-" if is_lora else "s--", color=color, markersize=4, label=label
        )
        axis.plot(
            [row["learning_rate"]], [known[row["learning_rate"]]], "o", markersize=11, fillstyle="none", color=color
        )
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter(style.plt.matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axis.yaxis.set_minor_formatter(style.plt.matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axis.set_xlabel("learning rate of Adam")
    axis.set_ylabel("wrong validation examples, mean over bases")
    axis.set_title("Each regime and rank tries rates until its best (ringed) is inside", fontsize=10)
    axis.legend(frameon=False, fontsize=8, ncols=2)
    return style.save(figure, path)
