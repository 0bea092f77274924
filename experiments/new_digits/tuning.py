"""What is chosen in S3, on held-out training images and the first bases: the replay, the epochs and the rate that LoRA needs, and full's."""

import dataclasses
from typing import Any

import jax
import numpy as np

from experiments.common import phases
from experiments.common.recording import RunFolder, slug
from experiments.data.mnist import Mnist
from experiments.new_digits import study
from experiments.new_digits.recipes import Recipe, best_of_each, named, room, tried
from experiments.new_digits.settings import Settings

BARS = {"old": 0.98, "new": 0.95, "overall": 0.98}  # S3.3


def tune(folder: RunFolder, settings: Settings, bases: Any, data: Mnist) -> dict[str, Any]:
    """{"grid": a line for LoRA with each replay at each rate, "full": the same of full fine-tuning with the replay that LoRA takes, "rates":
    method -> what was tried and taken}, each line with what held-out images say after every epoch.

    A rate is chosen together with replay and epochs: that of a shorter training would be too high.
    """
    families = [(replay, False) for replay in settings.replays] + [(replay, True) for replay in settings.kept]

    def lines(method: str, of: list[tuple[float, bool]]) -> list[dict[str, Any]]:
        each = [tried(method, replay, keeps, rate, 0) for replay, keeps in of for rate in settings.rates]
        return [_line(folder, settings, recipe, bases, data) for recipe in each]

    grid = lines("LoRA", families)
    least = _least(_fresh(grid))
    full = lines("full", [(least.replay, least.keeps)])
    rates = {"LoRA": _rate(settings, least), "full": _rate(settings, _least(full))}
    return {"grid": grid, "full": full, "rates": rates}


def _rate(settings: Settings, taken: Recipe) -> dict[str, Any]:
    tried_, best = sorted(settings.rates), taken.learning_rate
    return {"rates": tried_, "best": best, "at_edge": len(tried_) > 1 and best in (tried_[0], tried_[-1])}


def _line(folder, settings: Settings, recipe: Recipe, bases, data: Mnist) -> dict[str, Any]:
    """One replay, epoch by epoch for as many steps as every other."""
    order, _ = study.batches(settings, recipe, study.splits(settings, data).train, (0,))
    epochs = max(1, round(settings.most_steps / order(0).shape[1]))
    recipe = dataclasses.replace(recipe, epochs=epochs)
    curve = _followed(folder, settings, recipe, bases, data)
    return {"recipe": dataclasses.asdict(recipe), "validation": curve}


def _followed(folder, settings: Settings, recipe: Recipe, bases, data: Mnist) -> dict[str, list]:
    """group -> shares right [epochs + 1, tuning seeds] of the held-out images; kept, so that none is trained twice."""
    kept = f"tuning/{slug(recipe.name)}.json"
    if (found := folder.read(kept)) is not None:
        return found
    parts, seeds = study.splits(settings, data), range(min(settings.tuning_seeds, settings.seeds))
    some = jax.tree.map(lambda leaf: leaf[: len(seeds)], bases)
    begun = study.started(settings, recipe, some, [recipe.learning_rate] * len(seeds), seeds)
    evaluate, held_out = study.errors_of(begun, study.wrapped(settings, recipe)), parts.validation.on_device()
    order, epochs = study.batches(settings, recipe, parts.train, seeds)
    _, history = phases.train(
        folder, recipe.name, begun.sweep, begun.state, {}, parts.train.on_device(),
        order=order, blocks=epochs, follow=lambda state: evaluate(state, {}, held_out),
    )  # fmt: skip
    found = study.shares(np.stack([line["errors"] for line in history]), parts.validation, settings)
    folder.write(kept, {group: share.tolist() for group, share in found.items()})
    phases.forget_saves(folder, recipe.name)
    return folder.read(kept)


def chosen(tuning: dict[str, Any]) -> list[Recipe]:
    """What is then measured on the test images: the least replay that passes, afresh and of the same images, and full fine-tuning in its place."""
    fresh, full = _least(_fresh(tuning["grid"])), _least(tuning["full"])
    kept = _least([line for line in tuning["grid"] if line["recipe"]["keeps"]])
    return [named(fresh, "least"), *([named(kept, "least kept")] if kept else []), named(full, "full, replayed")]


def _fresh(grid: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in grid if not line["recipe"]["keeps"]]


def _least(grid: list[dict[str, Any]]) -> Recipe | None:
    """The least replay whose means pass every bar, at the rate and epoch that leave the most room; where none passes, what comes closest."""
    best = [(*_most_room(line["validation"]), line["recipe"]) for line in best_of_each(grid, BARS)]
    if not best:
        return None
    passing = [found for found in best if found[0] >= 0]
    _, epoch, recipe = min(passing, key=lambda f: f[2]["replay"]) if passing else max(best, key=lambda f: f[0])
    return Recipe(**{**recipe, "targets": tuple(recipe["targets"]), "epochs": epoch})


def _most_room(curve: dict[str, list]) -> tuple[float, int]:
    """(distance to the nearest bar, epoch), the mean over tuning seeds; negative where a bar is missed."""
    found = room(curve, BARS)
    return float(found.max()), int(found.argmax()) + 1
