"""Part 1: to convergence, on each kind of inputs, both rules on white ones."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.common.recording import RunFolder
from experiments.common.statistics import with_outcomes
from experiments.linear import teachers, training
from experiments.linear.settings import RULES, Settings
from lora_jax import sweep

PHASE = "inputs"
Group = tuple[str, str, int]  # inputs, rule, rank: the seeds of one row


def groups(settings: Settings) -> list[Group]:
    """The rows, in order: a fixed alpha is asked about on white inputs alone, and few inputs below the rank that fits all of them."""
    kinds = [(kind, rule) for kind in settings.inputs for rule in (RULES if kind == "white" else RULES[:1])]
    return [(kind, rule, rank) for kind, rule in kinds for rank in settings.ranks if not _fits_all(kind, rank)]


def _fits_all(kind: str, rank: int) -> bool:
    return kind == "few" and rank >= teachers.FEW


def members_of(
    rule: str, rank: int, settings: Settings, rates: Sequence[float], seeds: Sequence[int]
) -> list[sweep.Member]:
    """Every rate and seed of one rule and rank, seeds fastest; under the "constant" rule a member's alpha is its scale."""
    scale = settings.alpha if rule == RULES[0] else settings.alpha / rank
    return sweep.grid(ranks=(rank,), alphas=(scale,), learning_rates=rates, seeds=seeds)


def given(tasks: Sequence[teachers.Task]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(frozen layers [M, 1, D, D], inputs, labels and targets), as `training.train` takes them."""
    layers = np.stack([task.start for task in tasks])[:, None]
    return layers, {name: np.stack([getattr(task, name) for task in tasks]) for name in training.GIVEN}


def measured(folder: RunFolder, settings: Settings) -> tuple[list[dict[str, Any]], int]:
    """(rows, traces)."""
    seeds = range(settings.seeds)
    draw = functools.cache(teachers.draw)
    rows = groups(settings)
    if left_out := [rank for rank in settings.ranks if _fits_all("few", rank) and "few" in settings.inputs]:
        print(f"few inputs: rank {teachers.FEW} fits all of them, so {', '.join(map(str, left_out))} is left out there")
    tasks = [draw(kind, seed) for kind, _, _ in rows for seed in seeds]
    members = [
        member
        for _, rule, rank in rows
        for member in members_of(rule, rank, settings, (settings.learning_rate,), seeds)
    ]
    trained = training.train(
        folder, PHASE, members, *given(tasks), optimizer=training.cosine(settings.steps), steps=settings.steps,
        blocks=settings.blocks, strategy=settings.strategy,
    )  # fmt: skip
    of_row = np.arange(len(members)).reshape(len(rows), settings.seeds)
    return [
        _row(row, [tasks[i] for i in of], trained, of) for row, of in zip(rows, of_row, strict=True)
    ], trained.traces


def _row(row: Group, tasks: Sequence[teachers.Task], trained: training.Trained, of: np.ndarray) -> dict[str, Any]:
    """Of one kind of inputs, rule and rank: errors at the end, beside the least that its rank allows."""
    kind, rule, rank = row
    bounds = np.asarray([task.bounds()[rank] for task in tasks])
    best = [((task.best(rank) - task.update) ** 2).sum() for task in tasks]
    measured = {
        "error": trained.errors[-1, of].tolist(),
        "bound": bounds.tolist(),
        "ratio": (trained.errors[-1, of] / bounds).tolist(),
        "matrix_error": trained.matrix_errors[-1, of].tolist(),
        "best_matrix_error": [float(value) for value in best],
        "eckart_young": [float(teachers.DECAYED[rank])] * len(tasks),
    }
    return {"inputs": kind, "rule": rule, "rank": rank, **with_outcomes(**measured)}


def needed(settings: Settings) -> int:
    """Bytes, at least."""
    return training.needed(len(groups(settings)) * settings.seeds, max(settings.ranks))
