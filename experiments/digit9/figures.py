"""Figures and tables of S0 and S1, from their summary."""

from typing import Any

from etils import epath

from experiments.common.figures import style
from experiments.common.statistics import text

KIND_COLORS = {"study": "#1f77b4", "suspect": "#d62728", "mitigation": "#2ca02c"}


def table(summary: dict[str, Any]) -> str:
    """Per treatment: accuracy, errors on the digit, errors added elsewhere, per-class errors."""
    digit = summary["settings"]["digit"]
    n = summary["rows"][0]["accuracy_after"]["n"]
    headings = (
        "treatment",
        "parameters",
        "accuracy, %",
        f"wrong on {digit}",
        "added elsewhere",
        f"at half the {digit}s",
    )
    head = "{:<34} {:>10}  {:>24}  {:>22}  {:>22}  {:>20}".format(*headings)
    lines = [f"n = {n} seeds; mean [95 % interval]", head]
    first = summary["rows"][0]
    lines.append(
        f"{'base':<34} {'':>10}  {text(first['accuracy_before'], 2, 100):>24}  {text(first['digit_before'], 1):>22}"
    )
    for row in summary["rows"]:
        equal = row["others_added_at_equal_gain"]
        lines.append(
            f"{row['name']:<34} {row['parameters']:>10,}  {text(row['accuracy_after'], 2, 100):>24}  {text(row['digit_after'], 1):>22}  "
            f"{text(row['others_added'], 1):>22}  {text(equal, 1) if equal else '-':>20}"
        )
    lines += ["", "errors per digit, mean", f"{'treatment':<34} " + " ".join(f"{d:>6}" for d in range(10))]
    lines.append(f"{'base':<34} " + " ".join(f"{e['mean']:>6.1f}" for e in first["before"]))
    lines += [f"{row['name']:<34} " + " ".join(f"{e['mean']:>6.1f}" for e in row["after"]) for row in summary["rows"]]
    return "\n".join(lines)


def draw(summary: dict[str, Any], folder: epath.Path) -> list[epath.Path]:
    """errors_by_digit.png, errors_during_training.png and price_of_the_digit.png."""
    study = summary["settings"]["study"]
    return [
        _errors_by_digit(summary, folder / f"{study}_errors_by_digit.png"),
        _during_training(summary, folder / f"{study}_errors_during_training.png"),
        _paths(summary, folder / f"{study}_damage_at_equal_gain.png"),
        _price(summary, folder / f"{study}_price_of_the_digit.png"),
    ]


def _errors_by_digit(summary, path: epath.Path) -> epath.Path:
    figure, axis = style.new(8)
    row = summary["rows"][0]
    for offset, key, label, color in ((-0.2, "before", "base", "#7f7f7f"), (0.2, "after", row["name"], "#1f77b4")):
        means = [e["mean"] for e in row[key]]
        axis.bar(
            [d + offset for d in range(10)],
            means,
            0.4,
            yerr=style.error_bars(row[key]),
            capsize=2,
            color=color,
            label=label,
        )
    axis.set_xticks(range(10))
    axis.set_xlabel("digit")
    axis.set_ylabel("wrong test images")
    batches = summary["settings"]["batches"]
    axis.set_title(
        f"{batches} batches of digit {summary['settings']['digit']} alone: errors per digit (n = {row['accuracy_after']['n']})",
        fontsize=10,
    )
    axis.legend(frameon=False)
    return style.save(figure, path)


def _during_training(summary, path: epath.Path) -> epath.Path:
    figure, axis = style.new(8)
    row = summary["rows"][0]
    colors = style.plt.get_cmap("tab10").colors
    for digit in range(10):
        axis.plot(
            row["curve_batches"], [errors[digit] for errors in row["curve"]], color=colors[digit], label=str(digit)
        )
    axis.set_xlabel("batches")
    axis.set_ylabel("wrong test images, mean")
    axis.set_title(f"{row['name']}: errors per digit during training", fontsize=10)
    axis.legend(frameon=False, ncols=2, title="digit")
    return style.save(figure, path)


def _paths(summary, path: epath.Path) -> epath.Path:
    """Whose damage is it? Errors elsewhere against errors on the digit while LoRA, full and bias-only tuning proceed."""
    figure, axis = style.new(8, 5)
    digit = summary["settings"]["digit"]
    for row in summary["rows"]:
        if row["kind"] == "mitigation":
            continue
        on_digit = [errors[digit] for errors in row["curve"]]
        elsewhere = [sum(errors) - errors[digit] for errors in row["curve"]]
        line = {"study": "-", "suspect": "--"}[row["kind"]]
        axis.plot(on_digit, elsewhere, line, marker=".", label=row["name"])
    axis.set_yscale("log")
    axis.invert_xaxis()
    axis.set_xlabel(f"wrong on digit {digit} (training goes to the right)")
    axis.set_ylabel("wrong on the other digits")
    axis.set_title(f"Digit {digit} alone: the damage at an equal gain", fontsize=10)
    axis.legend(frameon=False, fontsize=8)
    return style.save(figure, path)


def _price(summary, path: epath.Path) -> epath.Path:
    """Errors left on the digit against errors added elsewhere: lower left is better."""
    figure, axis = style.new(10, 6)
    for i, row in enumerate(summary["rows"]):
        x, y = row["digit_after"], row["others_added"]
        color = KIND_COLORS[row["kind"]]
        bars = {"xerr": style.error_bars([x]), "yerr": style.error_bars([y])}
        axis.errorbar([x["mean"]], [y["mean"]], **bars, fmt="o", color=color, capsize=2, alpha=0.8)
        axis.annotate(str(i + 1), (x["mean"], y["mean"]), textcoords="offset points", xytext=(4, 4), fontsize=8)
    axis.axhline(0, color="k", linewidth=0.8)
    axis.axvline(summary["rows"][0]["digit_before"]["mean"], color="#7f7f7f", linestyle="--", linewidth=1)
    axis.set_yscale("symlog", linthresh=20)
    digit = summary["settings"]["digit"]
    axis.set_xlabel(f"wrong on digit {digit} afterwards (dashed: before)")
    axis.set_ylabel("errors added on the other digits")
    axis.set_title(f"What a better {digit} costs", fontsize=10)
    handles = [
        style.plt.Line2D([], [], marker="o", linestyle="", color=KIND_COLORS[row["kind"]]) for row in summary["rows"]
    ]
    names = [f"{i + 1} {row['name']}" for i, row in enumerate(summary["rows"])]
    axis.legend(handles, names, fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return style.save(figure, path)
