"""What S2, part II shows of ranks alone: rules for alpha, and the rank of full fine-tuning's update. Nothing here imports jax."""

from typing import Any

import numpy as np
from etils import epath

from experiments.common.figures import style
from experiments.common.figures.regimes import band, points, rows_of
from experiments.common.statistics import estimate
from experiments.sst2.settings import REFERENCE_RANK

RULE_COLORS = {"alpha = c r": "#1f77b4", "alpha fixed": "#ff7f0e", "alpha/sqrt(r)": "#2ca02c"}
CUT_COLORS = {"every matrix": "#d62728", "query and value": "#ff9896"}


def scaling(summary: dict[str, Any], path: epath.Path) -> epath.Path:
    """Each rule's accuracy minus that of the rank where the rules agree, seed by seed: at each learning rate, and on average over them."""
    found = summary["scaling"]
    rates, rules = found["rates"], list(dict.fromkeys(row["rule"] for row in found["rows"]))
    panels = [("mean over the learning rates", rates)] if len(rates) > 1 else []
    panels += [(f"learning rate {rate:.2g}", [rate]) for rate in rates]
    figure, axes = style.new(width=4 * len(panels) + 1, columns=len(panels), sharey=True)
    axes = np.atleast_1d(axes)
    for axis, (title, some) in zip(axes, panels, strict=True):
        for place, rule in enumerate(rules):
            ranks, differences = against_reference(found["rows"], rule, some)
            apart = [rank * 2 ** (0.12 * (place - (len(rules) - 1) / 2)) for rank in ranks]
            points(axis, apart, [estimate(values) for values in differences], "o-", color=RULE_COLORS[rule], label=rule)
        style.rank_axis(axis, ranks, "LoRA rank r")
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set_title(title, fontsize=9)
    axes[0].set_ylabel(f"validation accuracy minus that at r = {_reference(found['rows'])}, points")
    axes[0].legend(frameon=False, fontsize=8)
    n = len(found["rows"][0]["right"])
    figure.suptitle(
        f"Rules for alpha, which agree at r = {REFERENCE_RANK}: {found['examples']:,} sentences, {found['epochs']} epochs\n"
        f"paired by seed, mean and 95 % interval, n = {n}",
        fontsize=9,
    )
    return style.save(figure, path)


def _reference(rows: list[dict[str, Any]]) -> int:
    """The rank that is nearest to where the rules agree."""
    return min((row["rank"] for row in rows), key=lambda rank: abs(rank - REFERENCE_RANK))


def against_reference(rows: list[dict[str, Any]], rule: str, rates: list[float]) -> tuple[list[int], list[list[float]]]:
    """(ranks, accuracy minus the reference rank's of the same seed, averaged over the rates, a list a rank)."""
    ranks = sorted({row["rank"] for row in rows})
    of_rank = {
        rank: np.mean(
            [
                row["by_seed"]["accuracy"]
                for row in rows
                if (row["rule"], row["rank"]) == (rule, rank) and row["learning_rate"] in rates
            ],
            axis=0,
        )
        for rank in ranks
    }
    reference = of_rank[_reference(rows)]
    return ranks, [(of_rank[rank] - reference).tolist() for rank in ranks]


def spectrum(summary: dict[str, Any], path: epath.Path) -> epath.Path:
    """The energy that a rank holds of full's update, and the accuracy that it holds: the first does not say the second."""
    figure, axes = style.new(width=12, columns=2)
    shown = {"query": "#1f77b4", "value": "#d62728", "attention output and feed-forward": "#bbbbbb"}
    for kernel, kept in summary["spectrum"].items():
        kind = next((name for name in ("query", "value") if f"/{name}/" in kernel), None)
        kind = "key" if "/key/" in kernel else kind or "attention output and feed-forward"
        color = shown.setdefault(kind, "#8c564b")
        axes[0].plot(
            kept["ranks"],
            100 * np.mean(kept["shares"], axis=0),
            color=color,
            zorder=2 if kind in ("query", "value") else 1,
        )
    for name, color in shown.items():
        axes[0].plot([], [], color=color, label=name)
    ticks = max((kept["ranks"] for kept in summary["spectrum"].values()), key=len)
    style.rank_axis(axes[0], ticks, "rank r")
    axes[0].set_ylabel("energy in the first r directions, %")
    axes[0].set_title("squared singular values of W_full - W_base, a line a matrix, mean over seeds", fontsize=9)
    axes[0].legend(frameon=False, fontsize=8)
    if summary["truncated"]:
        _truncated(axes[1], summary)
    n = len(next(iter(summary["spectrum"].values()))["shares"])
    figure.suptitle(
        f"What a rank holds of full fine-tuning's update: its energy (left), its accuracy (right); n = {n} seeds",
        fontsize=9,
    )
    return style.save(figure, path)


def _truncated(axis, summary: dict[str, Any]) -> None:
    for cut, color in CUT_COLORS.items():
        rows = [row for row in summary["truncated"] if row["cut"] == cut]
        places = [max(row["rank"], 0.5) for row in rows]  # 0, on a logarithmic axis
        points(
            axis, places, [row["accuracy"] for row in rows], "o-", color=color, label=f"full's update cut at r, {cut}"
        )
    for row in rows_of(summary, "full"):
        band(axis, row, style.COLORS["full"])
    lora = rows_of(summary, "LoRA")
    points(
        axis,
        [row["rank"] for row in lora],
        [row["accuracy"] for row in lora],
        "s--",
        color=style.COLORS["LoRA"],
        label="LoRA trained at r",
    )
    ranks = sorted({row["rank"] for row in summary["truncated"]} - {0})
    style.rank_axis(axis, ranks, "rank r")
    axis.set_xticks([0.5, *ranks], ["0", *map(str, ranks)])
    axis.set_ylabel("validation accuracy, %")
    axis.set_title("all else is as full fine-tuning left it; mean and 95 % interval", fontsize=9)
    axis.legend(frameon=False, fontsize=8)
