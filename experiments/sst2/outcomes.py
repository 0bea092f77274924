"""What a group's training says, as numbers of a summary."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.common.errors import UserError
from experiments.common.statistics import estimate
from experiments.sst2.training import Outcome
from lora_jax.tree import flat


def finite(outcome: Outcome) -> np.ndarray:
    """bool [M]: whose loss stayed finite; what is not still predicts something, and is right now and then."""
    return np.isfinite(outcome.loss).all(axis=0)


def tuned(regime: str, rank: int, rates: tuple[float, ...], scores: list[float]) -> dict[str, Any]:
    """The best of `rates`, whether it lies at the edge of what was tried, and what all of them scored (-1: diverged)."""
    if max(scores) < 0:
        raise UserError(f"training diverged at every learning rate of {regime}; give lower --learning_rates.")
    best = rates[int(np.argmax(scores))]
    return {
        "rank": rank,
        "best": best,
        "at_edge": best in (rates[0], rates[-1]),
        "accuracy": {str(rate): score if score >= 0 else None for rate, score in zip(rates, scores, strict=True)},
    }


def untuned(rank: int, rate: float) -> dict[str, Any]:
    """The same of a rate that has no rival."""
    return {"rank": rank, "best": rate, "at_edge": False, "accuracy": {}}


def rows(outcome: Outcome, size: int) -> list[dict[str, Any]]:
    """One row per rank, averaged over seeds; `size` is the number of parameters of the base with its head."""
    found = []
    for rank in sorted({member.rank for member in outcome.members}):
        where = [i for i, member in enumerate(outcome.members) if member.rank == rank]
        everything = outcome.regime in ("full", "from scratch")
        parameters = size if everything else outcome.parameters[where[0]]
        added = outcome.regime.startswith("LoRA")
        found.append(
            {
                "regime": outcome.regime,
                "rank": rank or None,
                "learning_rate": outcome.members[where[0]].learning_rate,
                "parameters": parameters,
                "share": parameters / (size + (parameters - _head_size(outcome) if added else 0)),
                "accuracy": estimate(outcome.accuracy[-1, where]),
                "accuracies": outcome.accuracy[-1, where].tolist(),
                "curves": outcome.accuracy[:, where].T.tolist(),
                "loss": outcome.loss[:, where].mean(axis=1).tolist(),
            }
        )
    return found


def _head_size(outcome: Outcome) -> int:
    leaves = flat(outcome.state.train.trainable)
    return sum(leaf[0].size for path, leaf in leaves.items() if not path.rpartition("/")[2].startswith("lora_"))


def paired(outcomes: dict[str, Outcome]) -> dict[str, Any]:
    """LoRA minus full, seed by seed: each pair has its batches and its first classifier in common."""
    if not {"LoRA", "full"} <= outcomes.keys():
        return {}
    lora, full = outcomes["LoRA"], outcomes["full"]
    of_full = {member.seed: value for member, value in zip(full.members, full.accuracy[-1], strict=True)}
    differences: dict[str, list[float]] = {}
    for member, value in zip(lora.members, lora.accuracy[-1], strict=True):
        differences.setdefault(str(member.rank), []).append(float(value - of_full[member.seed]))
    return {rank: {"differences": values, **estimate(values)} for rank, values in differences.items()}


def spectrum(base: dict[str, Any], outcome: Outcome) -> dict[str, list[float]]:
    """Path -> singular values of the full fine-tuning update of each encoder kernel, averaged over seeds."""
    trained, start = flat(outcome.state.train.trainable), flat(base)
    kernels = [path for path, leaf in start.items() if "encoder" in path and path.endswith("kernel")]
    return {
        path: np.linalg.svd(
            np.asarray(trained[path][: len(outcome.members)] - jnp.asarray(start[path])[None]), compute_uv=False
        )
        .mean(axis=0)
        .tolist()
        for path in kernels
    }
