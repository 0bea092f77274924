"""The first steps: both rules at one rate and at their own, and how much the fixed alpha is behind."""

from typing import Any

import numpy as np
from etils import epath
from matplotlib import ticker

from experiments.common.figures import style
from experiments.common.statistics import estimate
from experiments.linear.settings import RULES

LINES = dict(zip(RULES, ("-", "--"), strict=True))
RATES = {"shared": "one rate for all", "own": "each at its own best rate"}
TICKS = (5, 10, 20, 50, 100, 200)
RATE_COLORS = {"shared": "#d62728", "own": "#2ca02c"}


def first_steps(summary: dict[str, Any], path: epath.Path) -> epath.Path:
    """Absolute error against steps, at a low, a middle and the highest rank; and the ratio of both rules, paired by seed."""
    rows = summary["early"]
    ranks = sorted({row["rank"] for row in rows})
    shown = list(dict.fromkeys((ranks[0], ranks[len(ranks) // 2], ranks[-1])))
    figure, axes = style.new(14, 4.4, columns=3)
    for axis, rate in zip(axes, RATES, strict=False):
        _errors(axis, rows, shown, rate)
        title = f"{RATES[rate]} ({summary['shared_rate']:g})" if rate == "shared" else f"{RATES[rate]} of that step"
        axis.set_title(title, fontsize=10)
    axes[1].sharey(axes[0])
    axes[0].set_ylabel("squared error of the matrix")
    axes[0].legend(frameon=False, fontsize=8)
    _ratios(axes[2], rows, ranks[-1])
    for axis in axes:
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xlabel("step")
        axis.set_xticks(TICKS, [str(step) for step in TICKS])
        axis.set_xticks([], minor=True)
    axes[2].yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes[2].yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axes[2].yaxis.set_minor_locator(ticker.NullLocator())
    figure.suptitle(
        f"At one rate for all a fixed alpha is slow; at its own rate it is about as fast (n = {rows[0]['error']['n']})"
        if _is_so(rows, ranks[-1])
        else f"Both rules for alpha during the first steps (n = {rows[0]['error']['n']})",
        fontsize=11,
    )
    return style.save(figure, path)


def _errors(axis, rows: list[dict[str, Any]], ranks: list[int], rate: str) -> None:
    for i, rank in enumerate(ranks):
        for rule in RULES:
            of = _of(rows, rule, rank, rate)
            steps, e = [row["step"] for row in of], [row["error"] for row in of]
            axis.plot(steps, [x["mean"] for x in e], LINES[rule], color=f"C{i}", label=f"r = {rank}, {rule}")
            if e[0]["low"] is not None:
                low = [max(x["low"], 1e-3 * x["mean"]) for x in e]
                axis.fill_between(steps, low, [x["high"] for x in e], color=f"C{i}", alpha=0.2, linewidth=0)


def _of(rows: list[dict[str, Any]], rule: str, rank: int, rate: str) -> list[dict[str, Any]]:
    """Over the steps, in order."""
    return [row for row in rows if (row["rule"], row["rank"], row["rate"]) == (rule, rank, rate)]


def _ratios(axis, rows: list[dict[str, Any]], rank: int) -> None:
    """exp of the mean log ratio, and its interval."""
    for rate, color in RATE_COLORS.items():
        steps, e = _log_ratios(rows, rank, rate)
        axis.plot(steps, np.exp([x["mean"] for x in e]), "o-", color=color, label=RATES[rate])
        if e[0]["low"] is not None:
            axis.fill_between(
                steps, np.exp([x["low"] for x in e]), np.exp([x["high"] for x in e]), color=color, alpha=0.2, linewidth=0
            )  # fmt: skip
    axis.axhline(1, color="k", linewidth=1)
    axis.set_title(f"error at r = {rank}, {RULES[1]} / {RULES[0]}, paired", fontsize=10)
    axis.legend(frameon=False, fontsize=8)


def _log_ratios(rows: list[dict[str, Any]], rank: int, rate: str) -> tuple[list[int], list[dict[str, Any]]]:
    scaled, fixed = (_of(rows, rule, rank, rate) for rule in RULES)
    logs = [
        np.log(b["by_seed"]["error"]) - np.log(a["by_seed"]["error"]) for a, b in zip(scaled, fixed, strict=True)
    ]  # fmt: skip
    return [row["step"] for row in scaled], [estimate(values) for values in logs]


def _is_so(rows: list[dict[str, Any]], rank: int) -> bool:
    """Whether the title may say so: behind by a half at one rate somewhere, by a fifth at most at its own everywhere."""
    at_one, at_own = (np.exp([e["mean"] for e in _log_ratios(rows, rank, rate)[1]]) for rate in RATES)
    return bool(at_one.max() > 1.5 and at_own.max() < 1.2)
