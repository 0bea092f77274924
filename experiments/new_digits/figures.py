"""Figures and table of S3, from its summary; and the picture of predictions."""

from typing import Any

import numpy as np
from etils import epath

from experiments.common.figures import style
from experiments.common.statistics import estimate, text
from experiments.new_digits.recipes import best_of_each, has_rates, room

GROUPS = {"old": "#1f77b4", "new": "#d62728", "overall": "#2ca02c"}
METHODS = {"LoRA": "-", "full": "--"}


def _names(summary: dict[str, Any]) -> dict[str, str]:
    new = summary["settings"]["new_digits"]
    old = [digit for digit in range(10) if digit not in new]
    return {"old": "digits " + _range(old), "new": "digits " + _range(new), "overall": "overall"}


def _range(digits: list[int]) -> str:
    consecutive = digits == list(range(digits[0], digits[-1] + 1))
    return f"{digits[0]}-{digits[-1]}" if consecutive and len(digits) > 1 else ",".join(map(str, digits))


def table(summary: dict[str, Any]) -> str:
    """Accuracies per recipe on the test images, and what was chosen from on held-out ones."""
    names, base, width = _names(summary), summary["base"], 46
    head = f"{'recipe':<{width}} {'lr':>7} {'parameters':>10}  "
    lines = [
        f"n = {base['overall']['n']} seeds; accuracy on the test images in %, mean [95 % interval]",
        head + "  ".join(f"{names[g]:>22}" for g in GROUPS),
    ]
    for row in [{"name": "base", **base}, *summary["rows"], *summary["modular"]]:
        rate = f"{row['recipe']['learning_rate']:g}" if "recipe" in row else ""
        mark = "  <- chosen" if row["name"] == summary["chosen"] else ""
        size = f"{row['parameters']:,}" if "parameters" in row else ""
        lines.append(
            f"{row['name']:<{width}} {rate:>7} {size:>10}  "
            + "  ".join(f"{text(row[g], 2, 100):>22}" for g in GROUPS)
            + mark
        )
    for method, found in summary["tuning"]["rates"].items():
        edge = ", at the edge of what was tried" if found["at_edge"] else ""
        lines.append(
            f"rate of {method}, of {', '.join(f'{rate:g}' for rate in found['rates'])}: {found['best']:g}{edge}"
        )
    return "\n".join([*lines, *_tried(summary)])


def _tried(summary) -> list[str]:
    """The epoch that leaves the most room to the bars, for each replay."""
    what = "rate and epoch" if has_rates(summary["tuning"]) else "epoch"
    lines = [
        f"chosen from, on {summary['settings']['held_out']:,} held-out training images: the {what} with the most room to the bars"
    ]
    for line in best_of_each(summary["tuning"]["grid"], summary["bars"]):
        recipe, found = line["recipe"], room(line["validation"], summary["bars"])
        curve = {group: np.mean(line["validation"][group], axis=1) for group in GROUPS}
        at = int(found.argmax()) + 1
        said = ", ".join(f"{name} {100 * curve[group][at]:.2f}" for group, name in _names(summary).items())
        of = "the same images" if recipe["keeps"] else "afresh"
        lines.append(
            f"replay {recipe['replay']:g} {of}, lr {recipe['learning_rate']:g}: {said} after {at} of {recipe['epochs']} epochs; "
            f"{'passes' if found.max() >= 0 else 'falls short'}"
        )
    return lines


def draw(summary: dict[str, Any], folder: epath.Path) -> list[epath.Path]:
    """The three pictures of S3."""
    return [
        _chosen_from(summary, folder / "what_it_takes.png"),
        _first_epoch(summary, folder / "forgetting_in_the_first_epoch.png"),
        _measured(summary, folder / "recipes.png"),
    ]


def _chosen_from(summary, path: epath.Path) -> epath.Path:
    """How far the nearest bar is on held-out images, epoch by epoch, for every replay that was tried."""
    figure, axis = style.new(8, 4.8)
    colors, grid = style.plt.get_cmap("viridis"), best_of_each(summary["tuning"]["grid"], summary["bars"])
    for i, line in enumerate(grid):
        recipe, found = line["recipe"], 100 * room(line["validation"], summary["bars"])
        label = f"{recipe['replay']:g}" + (", the same images" if recipe["keeps"] else "")
        color = colors(0.9 * i / max(1, len(grid) - 1))
        axis.plot(
            range(1, len(found) + 1), found, "s--" if recipe["keeps"] else "o-", markersize=3, color=color, label=label
        )
    axis.axhline(0, color="k", linestyle=":", linewidth=1)
    axis.set_ylim(-8, 1 + max(0.0, *(100 * float(room(line["validation"], summary["bars"]).max()) for line in grid)))
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter(style.plt.matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_xlabel("epochs")
    axis.set_ylabel("above the nearest bar, points")
    n, held_out = len(grid[0]["validation"]["old"][0]), f"{summary['settings']['held_out']:,} held-out images"
    bars = ", ".join(f"{100 * summary['bars'][group]:g} % of {name}" for group, name in _names(summary).items())
    axis.set_title(
        f"Which replay is enough for LoRA r = 16? Bars: {bars}\n({held_out}, mean of {n} bases)", fontsize=10
    )
    axis.legend(frameon=False, fontsize=8, title="old images per new one")
    return style.save(figure, path)


def _first_epoch(summary, path: epath.Path) -> epath.Path:
    """Both groups batch by batch, for LoRA and full fine-tuning, without replay and with it; bands are intervals over bases."""
    curves, names = summary["first_epoch"], _names(summary)
    figure, axes = style.new(11, 4.5, columns=2)
    for axis, pair, title in zip(
        axes, (curves[:2], curves[2:]), ("on the new digits alone", _replayed(curves[2:])), strict=True
    ):
        for curve, (method, line) in zip(pair, METHODS.items(), strict=True):
            for group in ("old", "new"):
                found = [estimate([100 * share for share in shares]) for shares in curve[group]]
                x = np.asarray(curve["batches"]) + 1  # so that 0 has a place on the axis
                axis.plot(x, [e["mean"] for e in found], line, color=GROUPS[group], label=f"{names[group]}, {method}")
                if found[0]["low"] is not None:
                    axis.fill_between(
                        x,
                        [e["low"] for e in found],
                        [e["high"] for e in found],
                        color=GROUPS[group],
                        alpha=0.15,
                        linewidth=0,
                    )
        axis.set_xscale("log")
        ticks = [tick for tick in (0, 1, 3, 10, 30, 100, 300, 1000) if tick <= pair[0]["batches"][-1]]
        axis.set_xticks([tick + 1 for tick in ticks], [str(tick) for tick in ticks])
        axis.set_xticks([], minor=True)
        axis.set_ylim(-3, 103)
        axis.set_xlabel(f"batches of {summary['settings']['batch_size']}, of the first epoch")
        axis.set_ylabel("test images right, %")
        axis.set_title(title, fontsize=10)
    axes[0].legend(frameon=False, fontsize=8)
    n = summary["base"]["overall"]["n"]
    figure.suptitle(
        f"What is forgotten while {names['new']} are learned (mean and 95 % interval, n = {n} bases)", fontsize=10
    )
    return style.save(figure, path)


def _replayed(curves) -> str:
    return "with old digits replayed: " + curves[0]["name"].removeprefix("LoRA, ").rpartition(", ")[0]


def _measured(summary, path: epath.Path) -> epath.Path:
    """Every recipe on the test images: all of the scale, and the part of it where the bars lie."""
    rows, names = [*summary["rows"], *summary["modular"]], _names(summary)
    figure, axes = style.new(12, 0.4 * len(rows) + 1.5, columns=2, sharey=True)
    for axis, left in zip(axes, (0, 90), strict=True):
        for i, (group, color) in enumerate(GROUPS.items()):
            found = [row[group] for row in rows]
            y = np.arange(len(rows)) + 0.2 * (i - 1)
            bars = [[100 * v for v in side] for side in style.error_bars(found)]
            axis.errorbar(
                [100 * e["mean"] for e in found],
                y,
                xerr=bars,
                fmt="o",
                markersize=4,
                capsize=2,
                color=color,
                label=names[group],
            )
            axis.axvline(100 * summary["bars"][group], color=color, linestyle=":", linewidth=1)
        axis.set_xlim(left - 0.02 * (100 - left), 100 + 0.02 * (100 - left))
        axis.set_xlabel("test images right, %")
    axes[0].set_yticks(range(len(rows)), [row["name"] for row in rows], fontsize=8)
    axes[0].invert_yaxis()
    figure.legend(*axes[0].get_legend_handles_labels(), frameon=False, fontsize=8, loc="outside lower center", ncols=3)
    axes[1].set_title("the same from 90 %; what is not there lies below", fontsize=10)
    n = summary["base"]["overall"]["n"]
    axes[0].set_title(f"mean and 95 % interval, n = {n} bases; dotted: the bars", fontsize=10)
    return style.save(figure, path)


def predictions(result: dict[str, Any], path: epath.Path) -> epath.Path:
    """The images with what the model says with the adapter on and off."""
    images, probabilities = result["images"], result["probabilities"]
    columns = min(5, len(images))
    rows = -(-len(images) // columns)
    figure, axes = style.plt.subplots(
        rows, columns, figsize=(2.2 * columns, 2.5 * rows), constrained_layout=True, squeeze=False
    )
    for axis in axes.flat:
        axis.axis("off")
    for i, axis in zip(range(len(images)), axes.flat, strict=False):
        axis.imshow(images[i], cmap="gray", vmin=0, vmax=255)
        said = [f"{state}: {np.argmax(p[i])} ({100 * p[i].max():.0f} %)" for state, p in probabilities.items()]
        axis.set_title("adapter " + "\n".join(said), fontsize=9)
    return style.save(figure, path)
