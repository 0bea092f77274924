"""Figures and table of the MNIST rank sweep, from its summary."""

from typing import Any

from etils import epath

from experiments.common.figures import style
from experiments.common.figures.regimes import against_parameters, band, points, rows_of
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


def draw(summary: dict[str, Any], folder: epath.Path) -> list[epath.Path]:
    """accuracy_vs_rank.png and accuracy_vs_parameters.png."""
    return [
        _against_rank(summary, folder / "accuracy_vs_rank.png"),
        against_parameters(
            summary,
            folder / "accuracy_vs_parameters.png",
            style.COLORS,
            title=_title(summary),
            ylabel="test accuracy, %",
            loc="lower right",
        ),  # fmt: skip
    ]


def _title(summary: dict[str, Any]) -> str:
    data = summary["data"]
    kind = "all of MNIST" if data["is_full_mnist"] else "5,000 MNIST images"
    return f"Base knows 0-7, adapted to 0-9 ({kind}; mean and 95 % interval, n = {summary['rows'][0]['accuracy']['n']} seeds)"


def _against_rank(summary, path: epath.Path) -> epath.Path:
    figure, axis = style.new()
    rows = rows_of(summary, "LoRA")
    ranks, accuracies = [row["rank"] for row in rows], [row["accuracy"] for row in rows]
    points(axis, ranks, accuracies, "o-", color=style.COLORS["LoRA"], label="LoRA")
    for regime in ("head only", "full"):
        band(axis, rows_of(summary, regime)[0], style.COLORS[regime])
    style.rank_axis(axis, ranks, "LoRA rank r (alpha = c r)")
    axis.set_ylabel("test accuracy, %")
    axis.set_title(_title(summary), fontsize=9)
    axis.legend(frameon=False)
    return style.save(figure, path)
