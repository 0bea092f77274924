"""Rules for alpha x ranks: in a short setting at several learning rates, or in the study's own at one."""

from typing import Any

import numpy as np

from experiments.sst2 import outcomes
from experiments.sst2.settings import REFERENCE_RANK, Settings
from experiments.sst2.training import Outcome
from lora_jax import sweep

RULES = ("alpha = c r", "alpha fixed", "alpha/sqrt(r)")


def scale_of(rule: str, rank: int, c: float) -> float:
    """The update's scale: c under each rule at the reference rank.

    >>> scale_of("alpha fixed", 32, 2.0)
    0.5
    """
    return {
        "alpha = c r": c,
        "alpha fixed": c * REFERENCE_RANK / rank,
        "alpha/sqrt(r)": c * (REFERENCE_RANK / rank) ** 0.5,
    }[rule]


def short(group, settings: Settings, rate: float, examples: int) -> dict[str, Any]:
    """Three rules, three learning rates, on part of the data; `group` trains (phase, members, recipe, split) -> Outcome."""
    rates = (rate / 3, rate, rate * 3)
    scales = {rule: {rank: scale_of(rule, rank, settings.scale) for rank in settings.ranks} for rule in RULES}
    cells = sorted({cell for of_rule in scales.values() for cell in of_rule.items()})
    members = [
        sweep.Member(*cell, learning_rate, seed)
        for cell in cells
        for learning_rate in rates
        for seed in range(settings.scaling_seeds)
    ]
    outcome = group("scaling", members, settings.recipe(epochs=settings.scaling_epochs, blocks_per_epoch=1), "scaling")
    rows = [
        _row(outcome, rule, rank, scale, learning_rate)
        for rule, of_rule in scales.items()
        for rank, scale in of_rule.items()
        for learning_rate in rates
    ]
    return {"rows": rows, "examples": examples, "epochs": settings.scaling_epochs, "rates": list(rates)}


def whole(group, settings: Settings, lora: Outcome, rate: float, examples: int) -> dict[str, Any]:
    """Alpha = c r, which `lora` has trained, and alpha fixed, in the study's own setting at one learning rate."""
    scales = {rule: {rank: scale_of(rule, rank, settings.scale) for rank in settings.ranks} for rule in RULES[:2]}
    missing = [cell for cell in scales["alpha fixed"].items() if cell not in scales["alpha = c r"].items()]
    seeds = range(settings.seeds)
    members = [sweep.Member(*cell, rate, seed) for cell in missing for seed in seeds]
    fixed = group("alpha fixed", members, settings.recipe(), "train") if members else lora
    rows = [
        _row(fixed if (rank, scale) in missing else lora, rule, rank, scale, rate)
        for rule, of_rule in scales.items()
        for rank, scale in of_rule.items()
    ]
    return {"rows": rows, "examples": examples, "epochs": settings.epochs, "rates": [rate]}


def _row(outcome: Outcome, rule: str, rank: int, scale: float, rate: float) -> dict[str, Any]:
    where = [
        i
        for i, member in enumerate(outcome.members)
        if (member.rank, member.alpha, member.learning_rate) == (rank, scale, rate)
    ]
    return {
        "rule": rule, "rank": rank, "scale": scale, "learning_rate": rate,
        **outcomes.measured(outcome, where), "diverged": int(np.sum(~outcomes.finite(outcome)[where])),
    }  # fmt: skip
