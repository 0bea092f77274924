"""What S3 gains and forgets within the first epoch, batch by batch: the two ways of training on the new digits alone."""

from typing import Any

import numpy as np

from experiments.common import phases
from experiments.common.recording import RunFolder
from experiments.data.mnist import Mnist, Split
from experiments.new_digits import study
from experiments.new_digits.recipes import Recipe
from experiments.new_digits.settings import Settings

EVERY = 5  # of the test images, to be measured often


def follow(folder: RunFolder, settings: Settings, recipe: Recipe, bases: Any, data: Mnist) -> dict[str, Any]:
    """{"name", "batches": [...], group -> shares right [measurements][seeds]} of every fifth test image."""
    parts, seeds = study.splits(settings, data), range(settings.seeds)
    some = Split(parts.test.x[::EVERY], parts.test.y[::EVERY])
    begun = study.started(settings, recipe, bases, [recipe.learning_rate] * settings.seeds, seeds)
    evaluate, shown = study.errors_of(begun, study.wrapped(settings, recipe)), some.on_device()
    epoch = study.batches(settings, recipe, parts.train, seeds)[0](0)  # [M, S, B]
    ends = measured_at(epoch.shape[1], settings.one_by_one, settings.then)
    _, history = phases.train(
        folder, f"first epoch, {recipe.name}", begun.sweep, begun.state, {}, parts.train.on_device(),
        order=lambda block: epoch[:, ends[block] : ends[block + 1]], blocks=len(ends) - 1,
        follow=lambda state: evaluate(state, {}, shown),
    )  # fmt: skip
    found = study.shares(np.stack([line["errors"] for line in history]), some, settings)
    return {"name": recipe.name, "batches": ends, **{group: share.tolist() for group, share in found.items()}}


def measured_at(steps: int, one_by_one: int, then: int) -> list[int]:
    """After which batches: each of the first `one_by_one`, then every so many, and the last.

    >>> measured_at(45, 32, 8)[30:]
    [30, 31, 32, 40, 45]
    """
    first = min(steps, one_by_one)
    return sorted({*range(first + 1), *range(first, steps, then), steps})
