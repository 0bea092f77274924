"""What the figures of rank sweeps share: rows of a regime, points with intervals, bands, accuracy against parameters."""

from typing import Any

from etils import epath

from experiments.common.figures import style


def rows_of(summary: dict[str, Any], regime: str) -> list[dict[str, Any]]:
    """The rows of a regime, in order."""
    return [row for row in summary["rows"] if row["regime"] == regime]


def points(axis, x: list[float], estimates: list[dict[str, Any]], line: str, **kwargs: Any) -> None:
    """Means in percent with their intervals."""
    bars = [[100 * v for v in side] for side in style.error_bars(estimates)]
    axis.errorbar(x, [100 * e["mean"] for e in estimates], yerr=bars, fmt=line, capsize=3, **kwargs)


def band(axis, row: dict[str, Any], color: str) -> None:
    """A regime without ranks: its mean as a line, its interval as a band."""
    e = row["accuracy"]
    name = "full fine-tuning" if row["regime"] == "full" else row["regime"]
    axis.axhline(100 * e["mean"], color=color, linestyle="--", label=name)
    if e["low"] is not None:
        axis.axhspan(100 * e["low"], 100 * e["high"], color=color, alpha=0.15)


def against_parameters(
    summary: dict[str, Any], path: epath.Path, colors: dict[str, str], *, title: str, ylabel: str, **legend: Any
) -> epath.Path:
    """Every row's accuracy against its trainable parameters, on a logarithmic axis; LoRA's ranks are named."""
    figure, axis = style.new()
    for regime in dict.fromkeys(row["regime"] for row in summary["rows"]):
        rows = rows_of(summary, regime)
        line = "o-" if regime == "LoRA" else "s"
        x = [row["parameters"] for row in rows]
        points(axis, x, [row["accuracy"] for row in rows], line, color=colors[regime], label=regime)
    for i, row in enumerate(rows_of(summary, "LoRA")):
        spot = (row["parameters"], 100 * row["accuracy"]["mean"])
        at = (4, -12 - 9 * (i % 3))  # small ranks have nearly as many parameters: their names one below the other
        axis.annotate(f"r={row['rank']}", spot, textcoords="offset points", xytext=at, fontsize=8)
    axis.set_xscale("log")
    axis.set_xlabel("trainable parameters")
    axis.set_ylabel(ylabel)
    axis.set_title(title, fontsize=9)
    axis.legend(frameon=False, **legend)
    return style.save(figure, path)
