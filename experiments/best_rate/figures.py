"""Figures and table of the best rate against the rank, from its summary."""

from typing import Any

import numpy as np
from etils import epath

from experiments.best_rate.settings import HORIZONS, RULES, STEP
from experiments.best_rate.vertex import best
from experiments.common.figures import style
from experiments.common.statistics import text

COLORS = dict(zip(RULES, ("#1f77b4", "#ff7f0e", "#2ca02c"), strict=True))
TITLES = {"mnist": "MNIST rotated by 90 degrees", "linear": "a linear teacher", "sst2": "BERT-tiny on SST-2"}
LOSSES = {"linear": "error above the least of the rank, mean over seeds"}
PUBLISHED = {
    "alpha = c r": "one rate for all (seed 2)",
    "alpha / sqrt(r)": "0 (rsLoRA)",
    "alpha fixed": "0 (LoRA Without Regret)",
}


def table(summary: dict[str, Any]) -> str:
    """Exponents, then every cell's best rate and loss."""
    n = summary["exponents"][0]["exponent"]["n"]
    lines = [
        f"best rate ~ rank^e, Adam with a rate that falls in a line; mean of n = {n} seeds [95 % interval], and of pooled curves [bootstrap]",
        f"{'horizon':<8} {'rule':<16} {'e, per seed':<24} {'e, pooled':<24} {'LoRA / full, lowest and highest rank':<44} said of e",
    ]
    for row in summary["exponents"]:
        ratios = list(row["ratio_to_full"].values())
        lines.append(
            f"{row['horizon']:<8} {row['rule']:<16} {text(row['exponent'], 2):<24} {text(row['pooled'], 2):<24} "
            f"{text(ratios[0], 1) + ', ' + text(ratios[-1], 1):<44} {PUBLISHED[row['rule']]}"
        )
    lines += ["", f"{'horizon':<8} {'rule':<16} {'rank':>4} {'best rate':>10} {'test loss there':<28} at a shared rate"]
    shared = {(row["horizon"], row["rule"]): row for row in summary["exponents"]}
    for row in summary["cells"]:
        lines.append(
            f"{row['horizon']:<8} {row['rule']:<16} {row['rank'] or '':>4} {row['best_rate']:>10.2e} {text(row['test_loss'], 4):<28} "
            f"{_at_shared(shared.get((row['horizon'], row['rule'])), row['rank'])}{_unclear(row)}"
        )
    return "\n".join(lines)


def _unclear(row: dict[str, Any]) -> str:
    return (
        "  (best rate at the edge)"
        if row["rate_at_edge"]
        else "  (flat around the best rate)"
        if row["rate_is_flat"]
        else ""
    )


def _at_shared(row: dict[str, Any] | None, rank: int | None) -> str:
    losses = row and row["by_seed"]["test_loss_at_shared_rate"]
    return f"{np.mean(losses[str(rank)]):.4f} at {row['shared_rate']:.2e}" if losses else "-"


def draw(summary: dict[str, Any], folder: epath.Path) -> list[epath.Path]:
    """best_rate_vs_rank.png, loss_vs_rate.png and loss_at_a_shared_rate.png."""
    return [
        _against_rank(summary, folder / "best_rate_vs_rank.png"),
        _bowls(summary, folder / "loss_vs_rate.png"),
        _shared(summary, folder / "loss_at_a_shared_rate.png"),
    ]


def _cells(summary, horizon: str, rule: str) -> list[dict[str, Any]]:
    return [row for row in summary["cells"] if (row["horizon"], row["rule"]) == (horizon, rule)]


def _per_seed(row: dict[str, Any]) -> list[float]:
    """Each seed's own best rate."""
    powers = np.round(np.log(np.asarray(row["rates"]) / 1e-3) / np.log(STEP)).astype(int).tolist()
    return [1e-3 * STEP ** best(powers, losses)[0] for losses in row["by_seed"]["tuning_losses"]]


def _against_rank(summary, path: epath.Path) -> epath.Path:
    """The rate that is best for each rank, every seed's own as a dot."""
    figure, axes = style.new(11, 4.5, columns=len(HORIZONS), sharey=True)
    settings = summary["settings"]
    for axis, horizon, steps in zip(axes, HORIZONS, settings["steps"], strict=True):
        for i, rule in enumerate(RULES):
            rows = _cells(summary, horizon, rule)
            ranks = [row["rank"] for row in rows]
            e = next(row for row in summary["exponents"] if (row["horizon"], row["rule"]) == (horizon, rule))[
                "exponent"
            ]
            axis.plot(
                ranks, [row["best_rate"] for row in rows], "o-", color=COLORS[rule], label=f"{rule}: rank^{text(e, 2)}"
            )
            for row in rows:
                own = _per_seed(row)
                axis.plot(
                    [row["rank"] * 1.05 ** (i - 1)] * len(own), own, ".", color=COLORS[rule], alpha=0.35, markersize=4
                )
        full = _cells(summary, horizon, "full")[0]
        axis.axhline(
            full["best_rate"], color=style.COLORS["full"], linestyle="--", label="full fine-tuning of the same kernels"
        )
        axis.set_yscale("log")
        style.rank_axis(axis, ranks)
        axis.set_title(f"{steps} steps", fontsize=10)
        axis.legend(edgecolor="none", framealpha=0.8, fontsize=8)
    axes[0].set_ylabel("best learning rate (Adam)")
    n = summary["exponents"][0]["exponent"]["n"]
    figure.suptitle(
        f"The best learning rate against the rank: {TITLES[settings['problem']]}\n(line: of the mean loss over n = {n} seeds; dots: each seed's own, "
        "from which the exponents are, with 95 % intervals)",
        fontsize=10,
    )
    return style.save(figure, path)


def _bowls(summary, path: epath.Path) -> epath.Path:
    """The tuning loss at every rate that was tried, a line for each rank."""
    figure, axes = style.new(12, 4.2, columns=len(RULES), sharey=True)
    horizon = HORIZONS[-1]
    for axis, rule in zip(axes, RULES, strict=True):
        rows = _cells(summary, horizon, rule)
        for i, row in enumerate(rows):
            color = style.plt.get_cmap("viridis")(i / max(1, len(rows) - 1) * 0.9)
            losses = np.mean(row["by_seed"]["tuning_losses"], axis=0)
            axis.plot(row["rates"], losses, ".-", color=color, label=f"r = {row['rank']}")
            axis.plot([row["best_rate"]], [losses.min()], "v", color=color, markersize=7)
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xlabel("learning rate")
        axis.set_title(rule, fontsize=10)
    lowest = min(
        np.min(np.mean(row["by_seed"]["tuning_losses"], axis=0))
        for rule in RULES
        for row in _cells(summary, horizon, rule)
    )
    first = max(row["by_seed"]["tuning_losses"][0][0] for rule in RULES for row in _cells(summary, horizon, rule))
    axes[0].set_ylim(0.9 * lowest, 1.2 * first)
    axes[0].set_ylabel(LOSSES.get(summary["settings"]["problem"], "held-out loss, mean over seeds"))
    axes[-1].legend(frameon=False, fontsize=8)
    steps, problem = summary["settings"]["steps"][-1], TITLES[summary["settings"]["problem"]]
    n = summary["exponents"][0]["exponent"]["n"]
    figure.suptitle(
        f"Loss against learning rate after {steps} steps: {problem} (n = {n} seeds; triangles: a parabola's vertex)",
        fontsize=10,
    )
    return style.save(figure, path)


def _shared(summary, path: epath.Path) -> epath.Path:
    """What one rate for all ranks costs each of them: percent of loss above its own best."""
    figure, axes = style.new(10, 4.2, columns=len(HORIZONS), sharey=True)
    for axis, horizon, steps in zip(axes, HORIZONS, summary["settings"]["steps"], strict=True):
        for rule in RULES:
            row = next(row for row in summary["exponents"] if (row["horizon"], row["rule"]) == (horizon, rule))
            losses, cells = row["by_seed"]["test_loss_at_shared_rate"], _cells(summary, horizon, rule)
            if losses is None:
                continue
            cost = [100 * (np.mean(losses[str(cell["rank"])]) / cell["test_loss"]["mean"] - 1) for cell in cells]
            axis.plot(
                [cell["rank"] for cell in cells],
                cost,
                "o-",
                color=COLORS[rule],
                label=f"{rule}, rate {row['shared_rate']:.1e}",
            )
        style.rank_axis(axis, [cell["rank"] for cell in cells])
        axis.axhline(0, color="k", linewidth=0.8)
        axis.set_title(f"{steps} steps", fontsize=10)
        axis.legend(edgecolor="none", framealpha=0.8, fontsize=8)
    axes[0].set_ylabel("test loss above that at its own best rate, %")
    n = summary["exponents"][0]["exponent"]["n"]
    figure.suptitle(
        f"What one rate for all ranks costs: {TITLES[summary['settings']['problem']]} (means over n = {n} seeds, no interval)",
        fontsize=10,
    )
    return style.save(figure, path)
