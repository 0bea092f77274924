"""How the new digits are learned in S3: the study's way, its later version's, full fine-tuning, and what is chosen. No JAX."""

import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Recipe:
    """`replay`: old images per new one, drawn afresh each epoch, or once for all where `keeps`. `kind` groups claims and figures."""

    name: str
    kind: str
    method: str = "LoRA"
    rank: int = 16
    alpha: float = 16
    targets: tuple[str, ...] = ("all-linear",)
    replay: float = 0.0
    keeps: bool = False
    learning_rate: float = 1e-3
    epochs: int = 5


STUDY = Recipe("8-9 alone, as the study", "study")
FULL_ALONE = Recipe("8-9 alone, full fine-tuning", "full alone", method="full")
LATER = Recipe(
    "later version: replay 0.8, head only", "later",
    rank=8, alpha=16, targets=("classifier",), replay=0.8, learning_rate=1e-4, epochs=8,
)  # fmt: skip
LATER_TUNED = dataclasses.replace(LATER, name="later version at lr 1e-3", kind="later, tuned", learning_rate=1e-3)
FIXED = (STUDY, FULL_ALONE, LATER, LATER_TUNED)


def fixed(epoch_share: float) -> list[Recipe]:
    """Those that nothing is chosen for, with so much of their epochs."""
    return [dataclasses.replace(recipe, epochs=max(1, round(recipe.epochs * epoch_share))) for recipe in FIXED]


def tried(method: str, replay: float, keeps: bool, rate: float, epochs: int) -> Recipe:
    """One of those that are chosen from."""
    of = "of the same images" if keeps else "afresh"
    return Recipe(
        f"{method}, replay {replay:g} {of}, lr {rate:g}",
        "tried",
        method,
        replay=replay,
        keeps=keeps,
        learning_rate=rate,
        epochs=epochs,
    )


def named(recipe: Recipe, kind: str) -> Recipe:
    """A recipe that was chosen, under a name that says what it is."""
    of = " of the same images" if recipe.keeps else ""
    return dataclasses.replace(
        recipe, kind=kind, name=f"{recipe.method}, replay {recipe.replay:g}{of}, {recipe.epochs} epochs"
    )


def room(curve: dict[str, list], bars: dict[str, float]) -> np.ndarray:
    """The distance to the nearest bar after each epoch, of the means over bases; negative where one is missed."""
    return np.min([np.asarray(curve[group])[1:].mean(axis=1) - bar for group, bar in bars.items()], axis=0)


def has_rates(tuned: dict[str, Any]) -> bool:
    """Whether a learning rate was chosen from several, and not given."""
    return any(len(found["rates"]) > 1 for found in tuned["rates"].values())


def best_of_each(grid: list[dict[str, Any]], bars: dict[str, float]) -> list[dict[str, Any]]:
    """Of the lines of one replay, which differ in their rates, the one with the most room at its best epoch."""
    found: dict[tuple[float, bool], list[dict[str, Any]]] = {}
    for line in grid:
        found.setdefault((line["recipe"]["replay"], line["recipe"]["keeps"]), []).append(line)
    return [max(lines, key=lambda line: room(line["validation"], bars).max()) for lines in found.values()]
