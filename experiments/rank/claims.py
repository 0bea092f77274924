"""R.1 to R.3: what the rank sweep found. Nobody published these; they are ours to make. From its summary."""

from typing import Any

import numpy as np

from experiments.common.figures.regimes import rows_of
from experiments.common.items import unpacked
from experiments.ledger import declared
from experiments.ledger.facts import settled
from experiments.ledger.inference import Fact, equivalent_over_items, over_items, slope
from experiments.ledger.table import Claim


def claims(summary: dict[str, Any], command: str) -> list[Claim]:
    (full,), (head,) = rows_of(summary, "full"), rows_of(summary, "head only")
    lora = sorted(rows_of(summary, "LoRA"), key=lambda row: row["rank"])
    n, more = full["accuracy"]["n"], _conditions(summary)
    return [
        settled(
            "R.1", "LoRA reaches full fine-tuning on MNIST, each at its own rate", _reaches(lora, full, summary), n, command,
            published="our question", more=more,
        ),
        settled(
            "R.2", "LoRA's accuracy rises with its rank", [_rises(lora, summary)] if len(lora) > 1 else [_one_rank()], n, command,
            published="our question", more=more,
        ),
        settled(
            "R.3", "LoRA of the lowest rank does better than the head alone",
            [over_items(f"r = {lora[0]['rank']} above head only, points", _right(lora[0], summary), _right(head, summary))], n, command,
            published="our question", more=more,
        ),
    ]  # fmt: skip


def _conditions(summary: dict[str, Any]) -> str:
    settings = summary["settings"]
    edge = [_name(row) for row in summary["rows"] if row["rate_at_edge"]]
    said = f"; after {settings['steps']} steps of {settings['batch_size']}"
    return said + (
        f"; the rate lies at the edge of what was tried for {', '.join(edge)}"
        if edge
        else "; every rate inside its range"
    )


def _name(row: dict[str, Any]) -> str:
    return row["regime"] if row["rank"] is None else f"r = {row['rank']}"


def _right(row: dict[str, Any], summary: dict[str, Any]) -> np.ndarray:
    """[K, I]."""
    return unpacked(row["right"], sum(summary["items"].values()))


def _reaches(lora, full, summary) -> list[Fact]:
    """The highest rank first; a lower one counts only where every higher one has reached it, so that no level is shared out."""
    margin, theirs = declared.of("R.1").margin, _right(full, summary)
    facts: list[Fact] = []
    for row in reversed(lora):
        said = f"r = {row['rank']} within {margin:g} points of full"
        fact = equivalent_over_items(said, _right(row, summary), theirs, margin)
        is_open = all(before.true for before in facts)
        facts.append(fact if is_open else Fact(said, None, f"{fact.shown}, not asked"))
    return facts


def _rises(lora, summary) -> Fact:
    """The slope of each base and test image in log2 of the rank."""
    ranks = np.log2([row["rank"] for row in lora])
    right = np.stack([_right(row, summary) for row in lora], axis=-1).astype(float)  # [K, I, ranks]
    slopes = np.reshape(slope(ranks, right.reshape(-1, len(ranks))), right.shape[:2])
    return over_items("points a doubling of the rank above 0", slopes, np.zeros_like(slopes), digits=3)


def _one_rank() -> Fact:
    return Fact("points a doubling of the rank above 0", None, "one rank was tried")
