"""What a group's training says, as numbers of a summary."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.common.items import packed
from experiments.common.statistics import with_outcomes
from experiments.sst2.training import Outcome
from lora_jax.tree import flat

ENERGY_RANKS = (1, 2, 4, 8, 16, 32, 64, 128, 256)  # at which a spectrum's share is kept


def finite(outcome: Outcome) -> np.ndarray:
    """bool [M]: whose loss stayed finite; what is not still predicts something, and is right now and then."""
    return np.isfinite(outcome.loss).all(axis=0)


def scores(outcome: Outcome) -> list[float | None]:
    """Each member's last accuracy; None for one that diverged."""
    last = outcome.accuracy[-1].tolist()
    return [score if good else None for score, good in zip(last, finite(outcome), strict=True)]


def rows(outcome: Outcome, size: int) -> list[dict[str, Any]]:
    """One row per rank; `size` is the number of parameters of the base with its head."""
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
                **measured(outcome, where),
                "curves": outcome.accuracy[:, where].T.tolist(),
                "loss": outcome.loss[:, where].mean(axis=1).tolist(),
            }
        )
    return found


def measured(outcome: Outcome, where: Sequence[int]) -> dict[str, Any]:
    """Of these members, the accuracy after the first epoch and at the end, and which sentences were right then."""
    ends = {"after_one_epoch": outcome.per_epoch, "accuracy": -1}
    return {
        **with_outcomes(**{name: outcome.accuracy[block, where] for name, block in ends.items()}),
        "right": packed(outcome.right[-1, where]),
        "right_after_one_epoch": packed(outcome.right[outcome.per_epoch, where]),
    }


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
        if member.seed in of_full:
            differences.setdefault(str(member.rank), []).append(float(value - of_full[member.seed]))
    return {rank: with_outcomes(difference=values) for rank, values in differences.items()}


def spectrum(base: dict[str, Any], outcome: Outcome) -> dict[str, Any]:
    """Path -> of the full fine-tuning update of each encoder kernel, the share of energy (squared singular values) in its first r directions.

    {"ranks": [R], "shares": [U][R]}: a share a seed, and no share of a mean over seeds.
    """
    trained, start = flat(outcome.state.train.trainable), flat(base)
    found = {}
    for path in kernels(start):
        update = np.asarray(trained[path][: len(outcome.members)] - jnp.asarray(start[path])[None], np.float64)
        energy = np.cumsum(np.square(np.linalg.svd(update, compute_uv=False)), axis=-1)
        ranks = [rank for rank in ENERGY_RANKS if rank <= energy.shape[-1]]
        shares = energy[:, [rank - 1 for rank in ranks]] / energy[:, -1:]
        found[path] = {"ranks": ranks, "shares": shares.tolist()}
    return found


def kernels(leaves: dict[str, Any]) -> list[str]:
    """The encoder's matrices, of flat leaves."""
    return [path for path in leaves if "encoder" in path and path.endswith("kernel")]
