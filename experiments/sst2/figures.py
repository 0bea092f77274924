"""Figures and table of S2, part II, from its summary."""

from typing import Any

import numpy as np
from etils import epath

from experiments.common.figures import style
from experiments.common.figures.regimes import against_parameters, band, points, rows_of
from experiments.common.statistics import estimate, text

COLORS = {**style.COLORS, "from scratch": "#9467bd", "LoRA all linear": "#17becf"}
NEEDED = 0.005  # of accuracy
RULE_COLORS = {"alpha = c r": "#1f77b4", "alpha fixed": "#ff7f0e", "alpha/sqrt(r)": "#2ca02c"}


def table(summary: dict[str, Any]) -> str:
    """One line per regime and rank, LoRA against full seed by seed, what padding cost, and how learning rates were chosen."""
    lines = [
        f"{'regime':<16} {'rank':>4} {'lr':>7} {'parameters':>10} {'share':>8}  {'validation accuracy, mean [95 % interval]':<42}  n"
    ]
    for row in summary["rows"]:
        lines.append(
            f"{row['regime']:<16} {row['rank'] or '':>4} {row['learning_rate']:>7g} {row['parameters']:>10,} {100 * row['share']:>7.2f}%  "
            f"{text(row['accuracy'], 2, 100) + ' %':<42}  {row['accuracy']['n']}"
        )
    lines.append(
        f"scored on {summary['scored']:,} validation sentences; always the commoner class: {100 * summary['majority']:.2f} %"
    )
    for rank, e in summary["paired"].items():
        lines.append(f"LoRA r = {rank} minus full, seed by seed: {text(e, 2, 100)} points")
    padding = summary["padding"]
    lines.append(
        f"padding is {100 * padding['share_wasted']:.0f} % of the training tokens in length buckets, "
        f"{100 * padding['share_wasted_in_one_length']:.0f} % in one length; {padding['cut_sentences']} sentences cut"
    )
    lines.append("intervals are over training seeds; the base and the validation sentences are the same for all")
    return "\n".join([*lines, *_spectrum_line(summary), *_tuning(summary)])


def _tuning(summary: dict[str, Any]) -> list[str]:
    """What the tuning split said of each learning rate."""
    lines = ["tuning split, accuracy at each learning rate after the same training (one seed):"]
    for regime, found in ((regime, line) for regime, ranks in summary["tuning"].items() for line in ranks):
        of_rate = ", ".join(
            f"{float(rate):g} {'diverged' if value is None else f'{100 * value:.2f} %'}"
            for rate, value in found["accuracy"].items()
        )
        edge = ", the edge of its range" if found["at_edge"] else ""
        lines.append(
            f"  {regime:<16} {found['rank'] or '':>2} {of_rate or 'nothing to choose from'}; taken: {found['best']:g}{edge}"
        )
    return lines


def needed_rank(summary: dict[str, Any]) -> int | None:
    """The smallest rank whose mean accuracy is within half a point of the best rank's."""
    rows = rows_of(summary, "LoRA")
    best = max((row["accuracy"]["mean"] for row in rows), default=None)
    return next((row["rank"] for row in rows if row["accuracy"]["mean"] >= best - NEEDED), None)


def _spectrum_line(summary: dict[str, Any]) -> list[str]:
    """The full update's energy in the rank that LoRA needed."""
    rank, spectra = needed_rank(summary), summary["spectrum"]
    if rank is None or not spectra:
        return []
    adapted = [energy(values) for path, values in spectra.items() if "/query/" in path or "/value/" in path]
    shares = [shares[min(rank, len(shares)) - 1] for shares in adapted]
    return [
        f"LoRA is within {100 * NEEDED:g} points of its best rank from r = {rank} on; so many directions hold "
        f"{100 * min(shares):.0f} to {100 * max(shares):.0f} % of the energy of full fine-tuning's updates of query and value"
    ]


def draw(summary: dict[str, Any], folder: epath.Path) -> list[epath.Path]:
    """Accuracy against rank and against parameters, learning curves, scaling x rank, spectrum; what the run has."""
    figures = [
        _learning_curves(summary, folder / "learning_curves.png"),
        against_parameters(
            summary,
            folder / "accuracy_vs_parameters.png",
            COLORS,
            title=_title(summary),
            ylabel="validation accuracy, %",
            fontsize=8,
        ),  # fmt: skip
    ]
    if rows_of(summary, "LoRA"):
        figures.append(_against_rank(summary, folder / "accuracy_vs_rank.png"))
    if summary["scaling"]:
        figures.append(_scaling(summary, folder / "scaling_vs_rank.png"))
    if summary["spectrum"]:
        figures.append(_spectrum(summary, folder / "full_update_spectrum.png"))
    return figures


def _title(summary: dict[str, Any]) -> str:
    data = summary["data"]
    kind = "SST-2" if data["is_full_sst2"] else "tweets, not SST-2"
    seeds = sorted({row["accuracy"]["n"] for row in summary["rows"]}, reverse=True)  # controls may have fewer
    return f"BERT on {kind} (mean and 95 % interval, n = {' or '.join(map(str, seeds))} seeds)"


def _against_rank(summary, path: epath.Path) -> epath.Path:
    figure, axis = style.new()
    rows = rows_of(summary, "LoRA")
    ranks = [row["rank"] for row in rows]
    points(axis, ranks, [row["accuracy"] for row in rows], "o-", color=COLORS["LoRA"], label="LoRA, query and value")
    for row in rows:  # ranks at different learning rates differ by these, too
        at = (row["rank"], 100 * row["accuracy"]["mean"])
        text_of = f"lr {row['learning_rate']:g}"
        axis.annotate(text_of, at, (6, 5), textcoords="offset points", fontsize=7, color=COLORS["LoRA"])
    for row in rows_of(summary, "LoRA all linear"):
        points(axis, [row["rank"]], [row["accuracy"]], "D", color=COLORS[row["regime"]], label=row["regime"])
    for regime in ("full", "from scratch", "head only"):
        for row in rows_of(summary, regime):
            band(axis, row, COLORS[row["regime"]])
    style.rank_axis(axis, ranks, "LoRA rank r")
    axis.set_ylabel("validation accuracy, %")
    axis.set_title(_title(summary), fontsize=9)
    axis.legend(frameon=False, fontsize=8)
    return style.save(figure, path)


def _learning_curves(summary, path: epath.Path) -> epath.Path:
    figure, axes = style.new(width=11, columns=2, sharey=True)
    epochs = summary["settings"]["epochs"]
    for row in summary["rows"]:
        if row["regime"] != "LoRA" or row["rank"] == 8:
            name = row["regime"] + (f", r = {row['rank']}" if row["rank"] else "")
            _curve(axes[0], row, epochs, color=COLORS[row["regime"]], label=name)
    rows = rows_of(summary, "LoRA")
    shades = style.plt.get_cmap("viridis")(np.linspace(0, 0.9, max(1, len(rows))))
    for row, shade in zip(rows, shades, strict=False):
        _curve(axes[1], row, epochs, color=shade, label=f"r = {row['rank']}")
    for axis, title in zip(axes, ("regimes", "LoRA on query and value, by rank"), strict=True):
        axis.set_xlabel("epochs")
        axis.set_title(title, fontsize=9)
        if axis.lines:
            axis.legend(frameon=False, fontsize=8)
    axes[0].set_ylabel("validation accuracy, %, mean over seeds")
    return style.save(figure, path)


def _curve(axis, row: dict[str, Any], epochs: int, **kwargs) -> None:
    mean = 100 * np.mean(row["curves"], axis=0)
    axis.plot(np.linspace(0, epochs, len(mean)), mean, **kwargs)


def _scaling(summary, path: epath.Path) -> epath.Path:
    found = summary["scaling"]
    figure, axes = style.new(width=12, columns=len(found["rates"]), sharey=True)
    for axis, rate in zip(axes, found["rates"], strict=True):
        for rule, color in RULE_COLORS.items():
            rows = [row for row in found["rows"] if (row["rule"], row["learning_rate"]) == (rule, rate)]
            ranks = [row["rank"] for row in rows]
            points(axis, ranks, [estimate(row["accuracies"]) for row in rows], "o-", color=color, label=rule)
        style.rank_axis(axis, ranks, "LoRA rank r")
        axis.set_title(f"learning rate {rate:.2g}", fontsize=9)
    axes[0].set_ylabel("validation accuracy, %")
    axes[0].legend(frameon=False, fontsize=8)
    figure.suptitle(
        f"Scaling rules, which agree at r = 8: {found['examples']:,} examples, {found['epochs']} epochs "
        f"(mean and 95 % interval, n = {len(found['rows'][0]['accuracies'])})",
        fontsize=9,
    )
    return style.save(figure, path)


def energy(values: list[float]) -> np.ndarray:
    """Share of the squared Frobenius norm in the first r singular values, r = 1, 2 ..."""
    squares = np.square(values)
    return np.cumsum(squares) / squares.sum()


def _spectrum(summary, path: epath.Path) -> epath.Path:
    figure, axis = style.new()
    shown = {"query": "#1f77b4", "value": "#d62728", "other kernels": "#bbbbbb"}
    for kernel, values in summary["spectrum"].items():
        kind = next((name for name in ("query", "value") if f"/{name}/" in kernel), "other kernels")
        axis.plot(
            np.arange(1, len(values) + 1),
            100 * energy(values),
            color=shown[kind],
            zorder=1 if kind == "other kernels" else 2,
        )
    rank = needed_rank(summary)
    if rank is not None:
        axis.axvline(rank, color="black", linestyle=":", label=f"LoRA is within {100 * NEEDED:g} points of its best")
    for name, color in shown.items():
        axis.plot([], [], color=color, label=name)
    style.rank_axis(axis, [1, 2, 4, 8, 16, 32, 64, 128])
    axis.set_ylabel("energy of the full fine-tuning update in rank r, %")
    axis.set_title("Singular values of W_full - W_base per kernel of the encoder, mean over seeds", fontsize=9)
    axis.legend(frameon=False)
    return style.save(figure, path)
