"""Part 2: the first steps on white inputs, at one rate for all and at each rank's and rule's own.

A rate is chosen for each step anew, on other seeds than those that are reported: what a run of so many steps would have taken. Rates are constant.
"""

import functools
import itertools
from typing import Any

import numpy as np
import optax

from experiments.common.errors import UserError
from experiments.common.recording import RunFolder
from experiments.common.statistics import with_outcomes
from experiments.linear import teachers, training
from experiments.linear.inputs import given, members_of
from experiments.linear.settings import EARLY_STEPS, RULES, Settings
from lora_jax import sweep

PHASE = "early"
BLOCK = EARLY_STEPS[0]  # steps
FIRST_TUNING_SEED = 10_000


def measured(folder: RunFolder, settings: Settings) -> tuple[list[dict[str, Any]], int]:
    """(rows, traces)."""
    seeds = [*range(settings.seeds), *range(FIRST_TUNING_SEED, FIRST_TUNING_SEED + settings.tuning_seeds)]
    draw = functools.cache(lambda seed: teachers.draw("white", seed))
    members = _members(settings, seeds)
    trained = training.train(
        folder, PHASE, members, *given([draw(member.seed) for member in members]), optimizer=optax.adam,
        steps=EARLY_STEPS[-1], blocks=EARLY_STEPS[-1] // BLOCK, strategy=settings.strategy,
    )  # fmt: skip
    shape = (-1, len(RULES), len(settings.ranks), len(settings.rates), len(seeds))
    errors = trained.errors.reshape(shape)  # [blocks + 1, rules, ranks, rates, seeds]
    rows = [
        row
        for (i, rule), (j, rank), step in itertools.product(enumerate(RULES), enumerate(settings.ranks), EARLY_STEPS)
        for row in _rows(rule, rank, step, errors[step // BLOCK, i, j], settings)
    ]
    return rows, trained.traces


def _members(settings: Settings, seeds: list[int]) -> list[sweep.Member]:
    return [
        member
        for rule in RULES
        for rank in settings.ranks
        for member in members_of(rule, rank, settings, settings.rates, seeds)
    ]


def _rows(rule, rank, step, errors: np.ndarray, settings: Settings) -> list[dict[str, Any]]:
    """At the shared rate and at its own; errors [rates, seeds], those of tuning last."""
    tuning = _tuning(errors[:, settings.seeds :])
    if not np.isfinite(tuning).any():
        raise UserError(f"training diverged at every rate of {rule}, r = {rank}.")
    chosen = {"shared": settings.rates.index(settings.learning_rate), "own": int(tuning.argmin())}
    return [
        {
            "rule": rule,
            "rank": rank,
            "step": step,
            "rate": name,
            "learning_rate": settings.rates[i],
            "at_edge": i in (0, len(settings.rates) - 1),
            **_measures(errors[i, : settings.seeds], teachers.DECAYED[rank]),
        }
        for name, i in chosen.items()
    ]


def _tuning(errors: np.ndarray) -> np.ndarray:
    """Mean logarithm of the errors [rates, seeds] over seeds; infinite where one diverged."""
    with np.errstate(all="ignore"):
        means = np.log(errors).mean(axis=1)
    return np.where(np.isfinite(means), means, np.inf)


def _measures(errors: np.ndarray, bound: float) -> dict[str, Any]:
    return with_outcomes(error=errors, ratio=errors / bound)


def needed(settings: Settings) -> int:
    """Bytes, at least."""
    seeds = settings.seeds + settings.tuning_seeds
    return training.needed(len(RULES) * len(settings.ranks) * len(settings.rates) * seeds, max(settings.ranks))
