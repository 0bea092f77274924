"""What is chosen in S3, on held-out training images and the first bases: each method's rate, and the replay and epochs that LoRA needs."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common import phases
from experiments.common.rates import searched
from experiments.common.recording import RunFolder, remove, slug
from experiments.data.mnist import Mnist
from experiments.new_digits import study
from experiments.new_digits.recipes import Recipe, named, room, tried
from experiments.new_digits.settings import Settings

BARS = {"old": 0.98, "new": 0.95, "overall": 0.98}  # S3.3
AT = 0.8  # the replay at which rates are chosen, that of the study's later version


def tune(folder: RunFolder, settings: Settings, bases: Any, data: Mnist) -> dict[str, Any]:
    """{"rates": method -> what was tried, "grid": a line for each replay}, each with what held-out images say after every epoch."""
    rates = {method: _rates(folder, settings, method, bases, data) for method in ("LoRA", "full")}
    families = [(replay, False) for replay in settings.replays] + [(replay, True) for replay in settings.kept]
    rate = rates["LoRA"]["best"]
    grid = [_line(folder, settings, tried("LoRA", replay, keeps, rate, 0), bases, data) for replay, keeps in families]
    return {"rates": rates, "grid": grid}


def _rates(folder, settings: Settings, method: str, bases, data: Mnist) -> dict[str, Any]:
    """Wrong held-out images after the study's epochs at each rate, until the best is inside what was tried."""
    epochs = max(1, round(5 * settings.epoch_share))

    def losses_at(rates):
        recipe = dataclasses.replace(
            tried(method, AT, False, 0, epochs), name=f"{method}, rates {', '.join(f'{rate:g}' for rate in rates)}"
        )
        curve = _followed(folder, settings, recipe, bases, data, list(rates))
        return [1 - share for share in np.asarray(curve["overall"])[-1].reshape(len(rates), -1).mean(axis=1)]

    rates, losses = searched(settings.rates, losses_at, settings.widenings)
    best = rates[int(np.argmin(losses))]
    is_at_edge = len(rates) > 1 and best in (rates[0], rates[-1])
    return {
        "rates": rates,
        "wrong": [loss if np.isfinite(loss) else None for loss in losses],
        "best": best,
        "at_edge": is_at_edge,
    }


def _line(folder, settings: Settings, recipe: Recipe, bases, data: Mnist) -> dict[str, Any]:
    """One replay, epoch by epoch for as many steps as every other."""
    order, _ = study.batches(settings, recipe, study.splits(settings, data).train, (0,))
    epochs = max(1, round(settings.most_steps / order(0).shape[1]))
    recipe = dataclasses.replace(recipe, epochs=epochs)
    curve = _followed(folder, settings, recipe, bases, data, [recipe.learning_rate])
    return {"recipe": dataclasses.asdict(recipe), "validation": curve}


def _followed(folder, settings: Settings, recipe: Recipe, bases, data: Mnist, rates: list[float]) -> dict[str, list]:
    """group -> shares right [epochs + 1, rates x tuning seeds] of the held-out images; kept, so that none is trained twice."""
    kept = f"tuning/{slug(recipe.name)}.json"
    if (found := folder.read(kept)) is not None:
        return found
    parts, seeds = study.splits(settings, data), range(min(settings.tuning_seeds, settings.seeds))
    of_members = [(rate, seed) for rate in rates for seed in seeds]
    place = jnp.asarray([seed for _, seed in of_members])
    begun = study.started(
        settings,
        recipe,
        jax.tree.map(lambda leaf: leaf[place], bases),
        [rate for rate, _ in of_members],
        [seed for _, seed in of_members],
    )
    evaluate, held_out = study.errors_of(begun, study.wrapped(settings, recipe)), parts.validation.on_device()
    order, epochs = study.batches(settings, recipe, parts.train, [seed for _, seed in of_members])
    _, history = phases.train(
        folder, recipe.name, begun.sweep, begun.state, {}, parts.train.on_device(),
        order=order, blocks=epochs, follow=lambda state: evaluate(state, {}, held_out),
    )  # fmt: skip
    found = study.shares(np.stack([line["errors"] for line in history]), parts.validation, settings)
    folder.write(kept, {group: share.tolist() for group, share in found.items()})
    remove(folder.path / "phases" / slug(recipe.name))
    return folder.read(kept)


def chosen(tuning: dict[str, Any]) -> list[Recipe]:
    """What is then measured on the test images: the least replay that passes, afresh and of the same images, and full fine-tuning in its place."""
    fresh, kept = (
        _least([line for line in tuning["grid"] if line["recipe"]["keeps"] is keeps]) for keeps in (False, True)
    )
    full = dataclasses.replace(fresh, method="full", learning_rate=tuning["rates"]["full"]["best"])
    return [named(fresh, "least"), *([named(kept, "least kept")] if kept else []), named(full, "full, replayed")]


def _least(grid: list[dict[str, Any]]) -> Recipe | None:
    """The least replay whose means pass every bar, at the epoch that leaves the most room; where none passes, what comes closest."""
    best = [(*_most_room(line["validation"]), line["recipe"]) for line in grid]
    if not best:
        return None
    passing = [found for found in best if found[0] >= 0]
    _, epoch, recipe = min(passing, key=lambda f: f[2]["replay"]) if passing else max(best, key=lambda f: f[0])
    return Recipe(**{**recipe, "targets": tuple(recipe["targets"]), "epochs": epoch})


def _most_room(curve: dict[str, list]) -> tuple[float, int]:
    """(distance to the nearest bar, epoch), the mean over tuning seeds; negative where a bar is missed."""
    found = room(curve, BARS)
    return float(found.max()), int(found.argmax()) + 1
