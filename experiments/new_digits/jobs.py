"""The jobs of S3 and the files between them: pretrain -> bases, finetune -> adapters and scores, inference -> a picture."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

import lora_jax
from experiments.common import phases
from experiments.common.classification import accuracy, class_counts, errors_by_class
from experiments.common.errors import UserError
from experiments.common.pretraining import EVALUATION_BATCH
from experiments.common.recording import RunFolder, slug
from experiments.data.mnist import MEAN, STD, Mnist, normalise
from experiments.new_digits import first_epoch, modular, recipes, study, tuning
from experiments.new_digits.recipes import Recipe
from experiments.new_digits.settings import Settings
from lora_jax import checkpoint, training


def pretrain(folder: RunFolder, settings: Settings, data: Mnist) -> None:
    """Trains and saves the bases, unless they are there."""
    is_saved = checkpoint.latest_step(folder.path / "bases") is not None
    if is_saved and folder.read("pretrain.json") is not None:
        return
    bases, scores = study.pretrain(folder, settings, data)
    if not is_saved:
        checkpoint.save_state(folder.path / "bases", bases, {}, None, step=0, run=folder.run)
    folder.write("pretrain.json", scores)


def finetune(folder: RunFolder, settings: Settings, data: Mnist) -> dict[str, Any]:
    """Chooses, then measures every recipe that is not there yet; saves adapters of seed 0; returns the summary."""
    bases = _bases(folder, settings, "finetune")
    before = jax.tree.map(np.asarray, bases)
    tuned = tuning.tune(folder, settings, bases, data)
    fixed, chosen = recipes.fixed(settings.epoch_share), tuning.chosen(tuned)
    measured = [_measured(folder, settings, recipe, bases, data) for recipe in (*fixed, *chosen)]
    followed = [
        first_epoch.follow(folder, settings, recipe, bases, data) for recipe in (*fixed[:2], chosen[0], chosen[-1])
    ]
    chex.assert_trees_all_equal(bases, before)
    test = study.splits(settings, data).test.y
    new = int(np.isin(test, settings.new_digits).sum())
    return {
        "base": folder.read("pretrain.json"),
        "rows": [one["row"] for one in measured],
        "modular": measured[0]["modular"],
        "tuning": tuned,
        "first_epoch": followed,
        "items": {"old": len(test) - new, "new": new},
        "bars": tuning.BARS,
        "chosen": chosen[0].name,
        "base_unchanged": True,
        "data": data.record(),
    }


def _measured(folder: RunFolder, settings: Settings, recipe: Recipe, bases: Any, data: Mnist) -> dict[str, Any]:
    """A recipe's row, and of the study's own the rows of its modular use; trained unless both are there, and the adapter."""
    name, is_lora = f"recipes/{slug(recipe.name)}.json", recipe.method == "LoRA"
    is_saved = not is_lora or checkpoint.latest_step(_adapter_path(folder, recipe)) is not None
    found = folder.read(name) if is_saved else None
    if found is None:
        trained, row = study.finetune(folder, settings, recipe, bases, data)
        if is_lora:
            _save(
                folder,
                settings,
                recipe,
                bases,
                lora_jax.adapter_of(lora_jax.combine(trained.state.own, trained.state.train.trainable)),
            )
        found = {"row": row}
        if recipe.kind == "study":
            parts, model = study.splits(settings, data), study.wrapped(settings, recipe)
            found["modular"] = modular.rows(settings, trained.sweep, model, trained.state, parts)
        folder.write(name, found)
    return found


def inference(folder: RunFolder, settings: Settings, data: Mnist, images: np.ndarray | None) -> dict[str, Any]:
    """Scores seed 0 with the adapter on and off; predictions for `images` uint8 [N, 28, 28] or a sample of test images."""
    base = jax.tree.map(lambda leaf: leaf[0], _bases(folder, settings, "inference"))
    summary = folder.summary()
    if summary is None:
        raise UserError(
            f"--job=inference: {folder.path} holds no fine-tuned adapter yet; run --job=finetune with the same flags first."
        )
    recipe = _recipe(next(row for row in summary["rows"] if row["name"] == summary["chosen"])["recipe"])
    model = study.wrapped(settings, recipe)
    params = lora_jax.adapt(jax.random.key(0), base, model, jnp.ones((1, 784)))
    path = _adapter_path(folder, recipe)
    with phases.mending(
        f"remove {path} and {folder.path / 'summary.json'}, then run --job=finetune with the same flags"
    ):
        params = checkpoint.restore_adapter(path, params, model.config, run=folder.run)
    on, off = params, lora_jax.scaled(params, 0.0)
    shown = _sample(data) if images is None else images
    predict = jax.jit(lambda p, x: jax.nn.softmax(model.apply({"params": p}, x)))
    x = jnp.asarray(normalise(shown))
    chex.assert_trees_all_equal(lora_jax.strip(params), base)
    return {
        "recipe": recipe.name,
        "on": _score(model, on, data, settings),
        "off": _score(model, off, data, settings),
        "images": shown,
        "probabilities": {"on": np.asarray(predict(on, x)), "off": np.asarray(predict(off, x))},
    }


def _bases(folder: RunFolder, settings: Settings, job: str) -> Any:
    """The saved bases [M, ...]."""
    if folder.read("pretrain.json") is None:
        raise UserError(
            f"--job={job}: {folder.path} holds no pretrained base yet; run --job=pretrain with the same flags first."
        )
    keys = jax.vmap(jax.random.key)(jnp.arange(settings.seeds, dtype=jnp.uint32))
    model = study.module(settings)
    like = jax.eval_shape(jax.vmap(lambda key: model.init(key, jnp.ones((1, 784)))["params"]), keys)
    like = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)
    with phases.mending(f"remove {folder.path / 'bases'} and run --job=pretrain with the same flags"):
        return checkpoint.restore_state(folder.path / "bases", like, {}, None, run=folder.run)


def _recipe(kept: dict[str, Any]) -> Recipe:
    return Recipe(**{**kept, "targets": tuple(kept["targets"])})


def _adapter_path(folder: RunFolder, recipe: Recipe) -> epath.Path:
    return folder.path / "adapters" / slug(recipe.name)


def _save(folder: RunFolder, settings: Settings, recipe: Recipe, bases: Any, adapters: Any) -> None:
    """The adapter of seed 0, for inference."""
    path = _adapter_path(folder, recipe)
    if checkpoint.latest_step(path) is None:
        params = jax.tree.map(lambda leaf: leaf[0], lora_jax.combine(bases, adapters))
        checkpoint.save_adapter(path, params, study.wrapped(settings, recipe).config, mask=None, run=folder.run)


def _score(model, params, data: Mnist, settings: Settings) -> dict[str, float]:
    evaluate = jax.jit(training.make_evaluation(errors_by_class(model), EVALUATION_BATCH))
    errors = np.asarray(evaluate(params, data.test.on_device())["errors"])
    counts = class_counts(data.test.y)
    return {name: float(accuracy(errors, counts, digits)) for name, digits in settings.groups.items()}


def _sample(data: Mnist) -> np.ndarray:
    """Two test images of each digit as uint8 [20, 28, 28]."""
    rows = np.concatenate([np.flatnonzero(data.test.y == digit)[:2] for digit in range(10)])
    pixels = (data.test.x[rows] * STD + MEAN) * 255
    return np.clip(np.round(pixels), 0, 255).astype(np.uint8).reshape(-1, 28, 28)
