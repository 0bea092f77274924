"""Figures and tables of S0 and S1, from their summary."""

from typing import Any

from etils import epath

from experiments.common.figures import style
from experiments.common.statistics import estimate, text
from experiments.digit9 import gain_figures, published
from experiments.digit9.equal_gain import told

COLORS = {9: "#1f77b4", 4: "#d62728", 7: "#ff7f0e", 8: "#9467bd", 3: "#2ca02c"}


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
        f"added at half the {digit}s",
    )
    head = "{:<36} {:>10}  {:>24}  {:>22}  {:>24}  {:>36}".format(*headings)
    lines = [f"n = {n} seeds; mean [95 % interval]; in brackets the seeds that get there, where not all do", head]
    first = summary["rows"][0]
    lines.append(
        f"{'base':<36} {'':>10}  {text(first['accuracy_before'], 2, 100):>24}  {text(first['digit_before'], 1):>22}"
    )
    for row in summary["rows"]:
        lines.append(
            f"{row['name']:<36} {row['parameters']:>10,}  {text(row['accuracy_after'], 2, 100):>24}  {text(row['digit_after'], 1):>22}  "
            f"{text(row['others_added'], 1):>24}  {told(row):>36}"
        )
    lines += ["", "errors per digit, mean", f"{'treatment':<36} " + " ".join(f"{d:>6}" for d in range(10))]
    lines.append(f"{'base':<36} " + " ".join(f"{e['mean']:>6.1f}" for e in first["before"]))
    lines += [f"{row['name']:<36} " + " ".join(f"{e['mean']:>6.1f}" for e in row["after"]) for row in summary["rows"]]
    return "\n".join(lines)


def draw(summary: dict[str, Any], folder: epath.Path) -> list[epath.Path]:
    """What happens to each digit, at the end and on the way; damage at equal gain: on the way, by rank and step, and of what mends it."""
    study = summary["settings"]["study"]
    drawn = {
        "errors_by_digit": _errors_by_digit,
        "errors_during_training": _during_training,
        "damage_at_equal_gain": gain_figures.on_the_way,
        "damage_by_rank": gain_figures.by_rank,
        "mitigations_at_equal_gain": gain_figures.mitigations,
    }
    return [draw_one(summary, folder / f"{study}_{name}.png") for name, draw_one in drawn.items()]


def _errors_by_digit(summary, path: epath.Path) -> epath.Path:
    figure, (left, right) = style.new(11, 4.2, columns=2)
    row = summary["rows"][0]
    for offset, key, label, color in ((-0.2, "before", "base", "#7f7f7f"), (0.2, "after", row["name"], "#1f77b4")):
        left.bar(
            [d + offset for d in range(10)],
            [e["mean"] for e in row[key]],
            0.4,
            yerr=style.error_bars(row[key]),
            capsize=2,
            color=color,
            label=label,
        )
    _published(summary, left)
    left.set_ylabel("wrong test images")
    left.set_ylim(bottom=0)
    left.legend(frameon=False)
    left.set_title("before and after", fontsize=10)
    added = [estimate(pair) for pair in _added_by_digit(row)]
    right.bar(range(10), [e["mean"] for e in added], 0.6, yerr=style.error_bars(added), capsize=2, color="#1f77b4")
    right.axhline(0, color="k", linewidth=0.8)
    right.set_ylabel("errors added, paired by seed")
    right.set_title("difference", fontsize=10)
    for axis in (left, right):
        axis.set_xticks(range(10))
        axis.set_xlabel("digit")
    _title(summary, figure, "errors of each digit")
    return style.save(figure, path)


def _added_by_digit(row):
    pairs = zip(zip(*row["before_by_seed"], strict=True), zip(*row["after_by_seed"], strict=True), strict=True)
    return [[b - a for a, b in zip(before, after, strict=True)] for before, after in pairs]


def _published(summary, axis) -> None:
    """The study's own single run, of the digits that it prints."""
    if summary["settings"]["digit"] != 9:
        return
    of = published.OF[summary["settings"]["study"]]
    errors = {9: of["digit"], **of["others"]}
    x = [digit + offset for digit in errors for offset in (-0.2, 0.2)]
    axis.plot(x, [count for pair in errors.values() for count in pair], "kD", markersize=4, label="published, one run")


def _title(summary, figure, what: str) -> None:
    batches, digit, n = (
        summary["settings"]["batches"],
        summary["settings"]["digit"],
        summary["rows"][0]["accuracy_after"]["n"],
    )
    figure.suptitle(
        f"{batches} batches of digit {digit} alone: {what} (n = {n} seeds, bars and bands: 95 %)", fontsize=10
    )


def _during_training(summary, path: epath.Path) -> epath.Path:
    figure, axis = style.new(8)
    row, digit = summary["rows"][0], summary["settings"]["digit"]
    batches = row["curve_batches"]
    for other in sorted(range(10), key=lambda d: d in COLORS):
        estimates = [errors[other] for errors in row["curve"]]
        color = COLORS.get(other, "#9a9a9a")
        means = [e["mean"] for e in estimates]
        axis.plot(batches, means, color=color, linewidth=2 if other == digit else 1.2)
        if other in COLORS:
            low, high = style.error_bars(estimates)
            axis.fill_between(
                batches,
                [m - b for m, b in zip(means, low, strict=True)],
                [m + b for m, b in zip(means, high, strict=True)],
                color=color,
                alpha=0.15,
                linewidth=0,
            )
    axis.set_ylim(bottom=0)
    _name_lines(axis, batches[-1], {d: row["curve"][-1][d]["mean"] for d in range(10)})
    axis.set_xlabel("batches of 10")
    axis.set_ylabel("wrong test images")
    axis.set_title(row["name"], fontsize=9)
    _title(summary, figure, "errors of each digit on the way")
    return style.save(figure, path)


def _name_lines(axis, x: float, ends: dict[int, float]) -> None:
    """Each digit at the end of its line; those that end close together share a label."""
    too_close = 0.045 * (axis.get_ylim()[1] - axis.get_ylim()[0])
    groups: list[list[int]] = []
    for digit in sorted(ends, key=ends.get):
        if groups and ends[digit] - ends[groups[-1][0]] < too_close:
            groups[-1].append(digit)
        else:
            groups.append([digit])
    for group in groups:
        middle = sum(ends[digit] for digit in group) / len(group)
        color = COLORS.get(group[0], "#6a6a6a") if len(group) == 1 else "#6a6a6a"
        axis.annotate(
            ", ".join(map(str, sorted(group))), (x, middle), textcoords="offset points", xytext=(5, 0), va="center",
            fontsize=9, color=color, annotation_clip=False,
        )  # fmt: skip
