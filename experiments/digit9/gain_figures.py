"""Damage at equal gain, of S0 and S1: on the way, by rank and step, and of what is to mend it."""

from typing import Any

import numpy as np
from etils import epath

from experiments.common.curves import value_at
from experiments.common.figures import style
from experiments.common.statistics import estimate
from experiments.digit9.cause import by_rank as rows_by_rank
from experiments.digit9.equal_gain import LABELS, SHARE, at_dose, at_half

HUES = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b")
BY_LABEL = dict(zip(LABELS, ("#2ca02c", "#1f77b4", "#d62728", "#7f7f7f"), strict=True))
SHARES_MENDED = np.linspace(0.05, 0.75, 29)


def on_the_way(summary: dict[str, Any], path: epath.Path) -> epath.Path:
    """Errors added against the share of the digit's errors that is mended; below, less the study's setting, paired."""
    figure, (top, below) = style.plt.subplots(
        2, 1, figsize=(8, 7), sharex=True, constrained_layout=True, height_ratios=(3, 2)
    )
    study, digit = summary["rows"][0], summary["settings"]["digit"]
    base = _added(study)
    for row, color in zip(_shown(summary), HUES, strict=False):
        added = _added(row)
        _line(top, added, color, label=row["name"], has_band=row is study)
        if row is not study:
            _line(below, added - base, color)
    for axis in (top, below):
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    top.set_ylim(bottom=0)
    top.set_ylabel("errors added on the other digits")
    top.legend(frameon=False, fontsize=9)
    below.axhline(0, color=HUES[0], linewidth=1)
    below.set_ylabel("minus LoRA as the study")
    below.set_xlabel(f"errors on digit {digit} that are mended, %")
    n = study["accuracy_after"]["n"]
    figure.suptitle(
        f"Digit {digit} alone: the damage at an equal gain (n = {n} seeds; bands: 95 %, above of the study's setting alone,\npaired below; lines end "
        f"where fewer than {_enough(n)} seeds get there)", fontsize=10,
    )  # fmt: skip
    return style.save(figure, path)


def _shown(summary) -> list[dict[str, Any]]:
    """The study's setting, the rank furthest from its own, its larger step, and the suspects; but for what few seeds mend half with."""
    study, own, larger = summary["rows"][0], rows_by_rank(summary, "own"), rows_by_rank(summary, "larger")
    far = max(own, key=lambda rank: abs(np.log2(rank / study["rank"]))) if own else None
    ranks = [rows[rank] for rows, rank in ((own, far), (larger, study["rank"])) if rank in rows]
    suspects = [row for row in summary["rows"] if row["kind"] == "suspect"]
    others = [row for row in (*ranks, *suspects) if row is not study and _is_reached(row)]
    return [study, *others][: len(HUES)]


def _is_reached(row) -> bool:
    return row["at_half"]["reached"] >= _enough(row["at_half"]["of"])


def _enough(n: int) -> int:
    return max(1, round(0.8 * n))


def _added(row) -> np.ndarray:
    """[M, shares], NaN where a seed never mends so much."""
    of_seeds = zip(row["curves"]["wrong"], row["curves"]["added"], strict=True)
    return np.asarray([[_at(np.asarray(w), np.asarray(a), share) for share in SHARES_MENDED] for w, a in of_seeds])


def _at(wrong: np.ndarray, added: np.ndarray, share: float) -> float:
    found = value_at(wrong, added, (1 - share) * wrong[0])
    return np.nan if found is None else found


def _line(axis, values: np.ndarray, color: str, *, label: str | None = None, has_band: bool = True) -> None:
    """Mean, and interval, over the seeds that get there, where enough do."""
    there = np.isfinite(values)
    kept = np.flatnonzero(there.sum(axis=0) >= _enough(len(values)))
    estimates = [estimate(values[there[:, k], k]) for k in kept]
    x, means = 100 * SHARES_MENDED[kept], np.asarray([e["mean"] for e in estimates])
    axis.plot(x, means, color=color, label=label)
    if has_band:
        low, high = style.error_bars(estimates)
        axis.fill_between(x, means - low, means + high, color=color, alpha=0.13, linewidth=0)


def by_rank(summary: dict[str, Any], path: epath.Path) -> epath.Path:
    """Errors added where half is mended, against rank, for both steps, full and bias-only tuning beside it; below, less the study's, paired."""
    figure, (top, below) = style.plt.subplots(2, 1, figsize=(8.5, 7), sharex=True, constrained_layout=True)
    study, digit = summary["rows"][0], summary["settings"]["digit"]
    ranks = sorted({*rows_by_rank(summary, "own"), *rows_by_rank(summary, "larger")})
    suspects = [row for row in summary["rows"] if row["kind"] == "suspect" and row["at_half"]["reached"]]
    rates = "each rank's own rate" if summary["settings"]["study"] == "s0" else "every rank at one rate"
    placed = {
        (f"LoRA, {rates}", "#1f77b4", "o"): [(ranks.index(r) - 0.07, row) for r, row in rows_by_rank(summary, "own").items()],
        ("LoRA, a larger rate", "#ff7f0e", "s"): [(ranks.index(r) + 0.07, row) for r, row in rows_by_rank(summary, "larger").items()],
        ("no low rank", "#d62728", "D"): [(len(ranks) + i, row) for i, row in enumerate(suspects)],
    }  # fmt: skip
    for (label, color, marker), rows in placed.items():
        _points(
            top,
            [(x, row["at_half"]["added"], row["at_half"]["reached"]) for x, row in rows],
            study,
            color,
            marker,
            label,
        )
        compared = [
            (x, one)
            for (x, row), one in zip(rows, at_half([row for _, row in rows], study), strict=True)
            if row is not study
        ]
        _points(below, [(x, one.minus, one.reached) for x, one in compared], study, color, marker, None)
    mean = study["at_half"]["added"]["mean"] if study["at_half"]["added"] else 0.0
    below.axhspan(
        -SHARE * mean,
        SHARE * mean,
        color="#1f77b4",
        alpha=0.12,
        linewidth=0,
        label=f"within {100 * SHARE:.0f} % of the study's",
    )
    below.axhline(0, color="#1f77b4", linewidth=1)
    names = [row["name"].replace("full fine-tuning", "full").replace(", ", "\n") for row in suspects]
    below.set_xticks(range(len(ranks) + len(names)), [f"r = {rank}" for rank in ranks] + names, fontsize=8)
    top.set_ylim(bottom=0)
    top.set_ylabel("errors added on the other digits")
    below.set_ylabel("minus LoRA as the study, paired")
    for axis in (top, below):
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize=8)
    figure.suptitle(
        f"Digit {digit} alone: damage once half of its errors are mended, by rank and step size\n(n = {study['at_half']['of']} seeds, fewer where a "
        "number says so; bars: 95 %)", fontsize=10,
    )  # fmt: skip
    return style.save(figure, path)


def _points(
    axis, placed: list[tuple[float, dict | None, int]], study, color: str, marker: str, label: str | None
) -> None:
    """Means with intervals, and how many seeds there are where it is not all."""
    placed = [(x, e, reached) for x, e, reached in placed if e is not None]
    estimates = [e for _, e, _ in placed]
    axis.errorbar(
        [x for x, _, _ in placed], [e["mean"] for e in estimates], yerr=style.error_bars(estimates), fmt=marker, color=color, capsize=2, label=label,
    )  # fmt: skip
    for x, e, reached in placed:
        if reached < study["at_half"]["of"]:
            axis.annotate(
                str(reached), (x, e["mean"]), textcoords="offset points", xytext=(6, 3), fontsize=8, color=color
            )


def mitigations(summary: dict[str, Any], path: epath.Path) -> epath.Path:
    """A line each: the share of the digit's errors that is mended, and errors added beside the study's setting at an equal gain."""
    others = [row for row in summary["rows"][1:] if row["kind"] == "suspect" or row["targets"]]
    mending = [row for row in summary["rows"] if row["kind"] == "mitigation"]
    rows, found = (
        [*others, *mending],
        [*at_dose(others), *at_dose(mending)],
    )  # each family shares its level, as in the ledger
    figure, (left, right) = style.new(10, 1.6 + 0.3 * max(6, len(rows)), columns=2, sharey=True)
    for y, (row, one) in enumerate(zip(rows, found, strict=True)):
        _interval(left, y, estimate(_mended(row)), "#444444")
        _interval(right, y, one.minus, BY_LABEL[one.label])
    study, digit = summary["rows"][0], summary["settings"]["digit"]
    left.axvline(estimate(_mended(study))["mean"], color="#1f77b4", linestyle="--", linewidth=1)
    right.axvline(0, color="#1f77b4", linestyle="--", linewidth=1)
    left.set_yticks(range(len(rows)), [row["name"] for row in rows], fontsize=8)
    left.invert_yaxis()
    left.set_xlabel(f"errors on digit {digit} mended in the end, %\n(dashed: {study['name']})")
    left.set_xlim(left=max(-50, left.get_xlim()[0]))
    right.locator_params(axis="x", nbins=5)
    right.set_xlabel("errors added elsewhere, minus the study's setting\nat the largest gain that both have, paired")
    handles = [style.plt.Line2D([], [], marker="o", color=color, label=label) for label, color in BY_LABEL.items()]
    right.legend(
        handles=handles,
        title="at equal gain",
        frameon=False,
        fontsize=8,
        title_fontsize=8,
        loc="upper left",
        bbox_to_anchor=(1, 1),
    )
    n = study["accuracy_after"]["n"]
    figure.suptitle(
        f"Digit {digit} alone: ways to do less damage, at equal gain (n = {n} seeds, bars: 95 %)", fontsize=10
    )
    return style.save(figure, path)


def _mended(row) -> list[float]:
    ends = zip(row["by_seed"]["digit_before"], row["by_seed"]["digit_after"], strict=True)
    return [100 * (before - after) / max(before, 1) for before, after in ends]


def _interval(axis, y: float, e: dict[str, Any] | None, color: str) -> None:
    if e is not None:
        axis.errorbar([e["mean"]], [y], xerr=style.error_bars([e]), fmt="o", color=color, capsize=2, markersize=4)
