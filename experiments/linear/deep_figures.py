"""Several layers: error against the rank of the whole, and how far above the bound."""

from typing import Any

import numpy as np
from etils import epath

from experiments.common.figures import style
from experiments.linear.settings import LAYERS

MARKERS = ("o", "s", "^", "D")
KIND_COLORS = dict(zip(LAYERS, ("#1f77b4", "#d62728"), strict=True))
LEAST = 1e-6  # excess that float32 can show


def several_layers(summary: dict[str, Any], path: epath.Path) -> epath.Path:
    """Left the errors on the bound, right the excess over it."""
    figure, (left, right) = style.new(11, 4.4, columns=2)
    rows = summary["deep"]
    bound = dict(sorted((row["of"], row["bound"]["mean"]) for row in rows))
    left.plot(list(bound), list(bound.values()), "k-", linewidth=1, label=r"bound: sum of $\sigma_i^2$, i > R L")
    for kind in LAYERS:
        for marker, depth in zip(MARKERS, sorted({row["depth"] for row in rows}), strict=False):
            of = [row for row in rows if (row["layers"], row["depth"]) == (kind, depth)]
            look = {"color": KIND_COLORS[kind], "fillstyle": "none", "label": f"{depth} {kind} layers, trained"}
            x = np.asarray([row["of"] for row in of])
            left.plot(x, [row["error"]["mean"] for row in of], marker, markersize=7, **look)
            _excess(right, x, of, marker, look)
    ranks = sorted(bound)
    for axis in (left, right):
        style.rank_axis(axis, ranks, "R L: rank of each adapter times layers")
        axis.set_yscale("log")
    left.set_ylabel("squared error of the product")
    left.set_title(f"Rank-R adapters on L frozen layers (n = {rows[0]['error']['n']})", fontsize=10)
    left.legend(frameon=False, fontsize=8)
    right.axhline(0.01, color="k", linestyle=":", linewidth=1)
    right.set_ylabel("error / bound - 1")
    right.set_title("Above the bound: mean and range of seeds, cut at 1e-6; dotted: 1 %", fontsize=10)
    return style.save(figure, path)


def _excess(axis, x: np.ndarray, rows: list[dict[str, Any]], marker: str, look: dict[str, Any]) -> None:
    """Mean and range over seeds; what float32 cannot tell from 0 at the foot."""
    excess = np.maximum(LEAST, np.asarray([row["by_seed"]["ratio"] for row in rows]) - 1)  # [rows, seeds]
    mean = excess.mean(axis=1)
    range_ = np.maximum(0.0, [mean - excess.min(axis=1), excess.max(axis=1) - mean])  # a mean of equals is rounded
    axis.errorbar(x, mean, yerr=range_, fmt=marker + "-", capsize=3, **look)
