"""Figures and table of S3, from its summary; and the picture of predictions."""

from typing import Any

import numpy as np
from etils import epath

from experiments.common.figures import style
from experiments.common.statistics import text

GROUPS = {"old": "#1f77b4", "new": "#d62728", "overall": "#2ca02c"}


def _names(summary: dict[str, Any]) -> dict[str, str]:
    new = summary["settings"]["new_digits"]
    old = [digit for digit in range(10) if digit not in new]
    return {"old": "digits " + _range(old), "new": "digits " + _range(new), "overall": "overall"}


def _range(digits: list[int]) -> str:
    consecutive = digits == list(range(digits[0], digits[-1] + 1))
    return f"{digits[0]}-{digits[-1]}" if consecutive and len(digits) > 1 else ",".join(map(str, digits))


def table(summary: dict[str, Any]) -> str:
    """Accuracies per recipe."""
    names, base = _names(summary), summary["base"]
    lines = [
        f"n = {base['overall']['n']} seeds; accuracy in %, mean [95 % interval]",
        f"{'recipe':<38} {'parameters':>10}  " + "  ".join(f"{names[g]:>22}" for g in GROUPS),
        f"{'base':<38} {base['parameters']:>10,}  " + "  ".join(f"{text(base[g], 2, 100):>22}" for g in GROUPS),
    ]
    for row in summary["rows"]:
        mark = "  <- chosen" if row["name"] == summary["chosen"] else ""
        lines.append(
            f"{row['name']:<38} {row['parameters']:>10,}  "
            + "  ".join(f"{text(row[g], 2, 100):>22}" for g in GROUPS)
            + mark
        )
    return "\n".join(lines)


def draw(summary: dict[str, Any], folder: epath.Path) -> list[epath.Path]:
    """retention_and_acquisition.png and forgetting_during_training.png."""
    return [
        _curve(summary, folder / "retention_and_acquisition.png"),
        _forgetting(summary, folder / "forgetting_during_training.png"),
    ]


def _curve(summary, path: epath.Path) -> epath.Path:
    figure, (left, right) = style.new(11, 4.5, columns=2)
    rows = sorted(
        (row for row in summary["rows"] if row["kind"] in ("study", "curve")), key=lambda row: row["recipe"]["replay"]
    )
    x = [row["recipe"]["replay"] for row in rows]
    for group, label in _names(summary).items():
        estimates = [row[group] for row in rows]
        bars = [[100 * v for v in side] for side in style.error_bars(estimates)]
        left.errorbar(
            x, [100 * e["mean"] for e in estimates], yerr=bars, fmt="o-", capsize=3, color=GROUPS[group], label=label
        )
    left.axhline(100 * summary["bars"]["overall"], color="k", linestyle=":", linewidth=1, label="98 %")
    left.set_xscale("symlog", linthresh=0.05)
    left.set_xlim(left=-0.01)
    left.set_ylim(-3, 103)
    left.set_xticks(x, [f"{value:g}" for value in x])
    left.set_xlabel("replay ratio: old images per new image (0: the study)")
    left.set_ylabel("test accuracy, %")
    left.set_title("LoRA r = 16 on every layer", fontsize=10)
    left.legend(frameon=False)
    for row in summary["rows"]:
        if row["recipe"]["replay"] > 0 and row["kind"] != "later":
            _point(right, row)
    right.set_xlabel(f"acquired: accuracy on {_names(summary)['new']}, %")
    right.set_ylabel(f"retained: accuracy on {_names(summary)['old']}, %")
    right.set_title("Retention against acquisition, by replay ratio", fontsize=10)
    return style.save(figure, path)


def _point(axis, row: dict[str, Any]) -> None:
    """One replay ratio: what it acquired and what it retained, in percent; a star marks the longer training."""
    is_honest = row["kind"] == "honest"
    color, marker, size = ("#2ca02c", "*", 120) if is_honest else ("#1f77b4", "o", 30)
    x, y = 100 * row["new"]["mean"], 100 * row["old"]["mean"]
    axis.scatter(x, y, color=color, marker=marker, s=size)
    label = f"{row['recipe']['replay']:g}" + (f", {row['recipe']['epochs']} epochs" if is_honest else "")
    axis.annotate(label, (x, y), textcoords="offset points", xytext=(6, 4), fontsize=8)


def _forgetting(summary, path: epath.Path) -> epath.Path:
    figure, axis = style.new(8)
    study = next(row for row in summary["rows"] if row["kind"] == "study")
    colors = style.plt.get_cmap("tab10").colors
    for digit in range(10):
        axis.plot(
            [errors[digit] for errors in study["followed_errors_by_class"]], "o-", color=colors[digit], label=str(digit)
        )
    axis.set_xlabel("epochs of fine-tuning")
    axis.set_ylabel("wrong test images, mean")
    axis.set_title(f"{study['name']}: errors per digit", fontsize=10)
    axis.legend(frameon=False, ncols=2, title="digit")
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
