"""Part 3: several frozen layers, each with an adapter of rank R, against the bound of rank R L."""

import functools
import itertools
from typing import Any

import numpy as np

from experiments.common.recording import RunFolder
from experiments.common.statistics import with_outcomes
from experiments.linear import chains, teachers, training
from experiments.linear.settings import LAYERS, D, Settings
from lora_jax import sweep


def measured(folder: RunFolder, settings: Settings) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """(rows, traces of each phase); a depth is a program."""
    found = {f"deep_{depth}": _of_depth(folder, settings, depth) for depth in settings.depths}
    rows = [row for rows, _ in found.values() for row in rows]
    return rows, {phase: traces for phase, (_, traces) in found.items()}


def _of_depth(folder: RunFolder, settings: Settings, depth: int) -> tuple[list[dict[str, Any]], int]:
    seeds, draw = range(settings.seeds), functools.cache(chains.draw)
    groups = list(itertools.product(LAYERS, settings.layer_ranks))
    drawn = [draw(kind, depth, seed) for kind, _ in groups for seed in seeds]
    members = [
        member
        for _, rank in groups
        for member in sweep.grid(
            ranks=(rank,), alphas=(settings.alpha,), learning_rates=(settings.learning_rate,), seeds=seeds
        )
    ]
    white = np.broadcast_to(np.sqrt(D) * np.eye(D), (len(drawn), D, D))
    targets = np.stack([chain.target for chain in drawn])
    trained = training.train(
        folder, f"deep_{depth}", members, np.stack([chain.layers for chain in drawn]),
        {"x": white, "y": np.sqrt(D) * targets, "target": targets}, optimizer=training.cosine(settings.deep_steps),
        steps=settings.deep_steps, blocks=_blocks(settings), strategy=settings.strategy,
    )  # fmt: skip
    of_group = np.arange(len(members)).reshape(len(groups), settings.seeds)
    rows = [
        _row(kind, depth, rank, [drawn[i] for i in of], trained.errors[-1, of])
        for (kind, rank), of in zip(groups, of_group, strict=True)
    ]
    return rows, trained.traces


def _blocks(settings: Settings) -> int:
    return max(1, settings.deep_steps // 100)


def _row(kind: str, depth: int, rank: int, drawn: list[chains.Chain], errors: np.ndarray) -> dict[str, Any]:
    """Errors of one kind of layers, depth and rank: trained, and of the updates that are constructed."""
    bound = float(teachers.DECAYED[min(D, rank * depth)])
    measured = {
        "error": errors.tolist(),
        "bound": [bound] * len(drawn),
        "ratio": (errors / bound).tolist(),
        "constructed": [_constructed(chain, rank) / bound for chain in drawn],
        "condition": [float(np.linalg.cond(chain.product)) for chain in drawn],
    }
    return {"layers": kind, "depth": depth, "rank": rank, "of": rank * depth, **with_outcomes(**measured)}


def _constructed(chain: chains.Chain, rank: int) -> float:
    reached = chains.product(chain.layers + chains.constructed(chain, rank))
    return float(((reached - chain.target) ** 2).sum())


def needed(settings: Settings) -> int:
    """Bytes, at least, of the deepest."""
    if not settings.depths:
        return 0
    members = len(LAYERS) * len(settings.layer_ranks) * settings.seeds
    return training.needed(members, max(settings.layer_ranks), max(settings.depths))
