"""The table of S2, part II, from its summary. Nothing here imports jax."""

from typing import Any

import numpy as np

from experiments.common.statistics import text


def table(summary: dict[str, Any]) -> str:
    """One line per regime and rank, LoRA against full seed by seed, the rank of full's update, what padding cost, how rates were chosen."""
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
    for rank, found in summary["paired"].items():
        lines.append(f"LoRA r = {rank} minus full, seed by seed: {text(found['difference'], 2, 100)} points")
    padding = summary["padding"]
    lines.append(
        f"padding is {100 * padding['share_wasted']:.0f} % of the training tokens in length buckets, "
        f"{100 * padding['share_wasted_in_one_length']:.0f} % in one length; {padding['cut_sentences']} sentences cut"
    )
    lines.append("intervals are over training seeds; the base and the validation sentences are the same for all")
    return "\n".join([*lines, *_ranks_of_full(summary), *_tuning(summary)])


def _ranks_of_full(summary: dict[str, Any]) -> list[str]:
    """Of each rank, the energy it holds of full's updates of query and value, and the accuracy that full keeps when cut at it."""
    if not summary["spectrum"]:
        return []
    kept = [found for path, found in summary["spectrum"].items() if "/query/" in path or "/value/" in path]
    lines = [
        "full fine-tuning's update at rank r: energy of query's and value's; accuracy where every matrix, or query and value, is cut at it:"
    ]
    cut = {(row["cut"], row["rank"]): row["accuracy"] for row in summary["truncated"] or ()}
    for rank in sorted({rank for _, rank in cut} | (set() if cut else set(kept[0]["ranks"]))):
        shares = [100 * float(np.mean(f["shares"], axis=0)[f["ranks"].index(rank)]) for f in kept if rank in f["ranks"]]
        held = f"{min(shares):.0f} to {max(shares):.0f} %" if shares else "-"
        accuracies = [
            text(cut[name, rank], 2, 100) + " %" for name in ("every matrix", "query and value") if (name, rank) in cut
        ]
        lines.append(f"  r = {rank:<4} {held:<14} {'; '.join(accuracies)}")
    return lines


def _tuning(summary: dict[str, Any]) -> list[str]:
    """What the tuning split said of each learning rate."""
    lines = ["tuning split, accuracy at each learning rate after the same training, mean over runs:"]
    for regime, found in ((regime, line) for regime, ranks in summary["tuning"].items() for line in ranks):
        of_rate = ", ".join(
            f"{float(rate):g} {'diverged' if value is None else f'{100 * value:.2f} %'}"
            for rate, value in found["accuracy"].items()
        )
        edge = ", the edge of its range" if found["at_edge"] else ""
        by = f" ({found['by']}{edge})" if of_rate else ""
        lines.append(
            f"  {regime:<16} {found['rank'] or '':>2} {of_rate or 'nothing to choose from'}; taken: {found['best']:g}{by}"
        )
    return lines
