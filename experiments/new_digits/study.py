"""S3: a base that knows the digits 0-7 learns 8 and 9 through LoRA. What is gained, what is forgotten, what prevents it?

Letters: M seeds (each with its own base), C classes, I test images.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

import lora_jax
from experiments.common import devices, memory, phases
from experiments.common.classification import accuracy, by_item, class_counts, cross_entropy, errors_by_class, right
from experiments.common.items import packed
from experiments.common.pretraining import EVALUATION_BATCH, order_key, train_bases
from experiments.common.recording import RunFolder
from experiments.common.statistics import with_outcomes
from experiments.data.mnist import Mnist, Split
from experiments.new_digits.recipes import Recipe
from experiments.new_digits.settings import PRESETS as PRESETS
from experiments.new_digits.settings import Settings
from lora_jax import sweep, training
from lora_jax.initializers import Normal
from lora_jax.models.mlp import MLP


def module(settings: Settings) -> MLP:
    return MLP(settings.hidden, dropout=settings.dropout)


def wrapped(settings: Settings, recipe: Recipe) -> Any:
    """The model of a recipe; A ~ N(0, 0.01^2), as the study draws it."""
    if recipe.method == "full":
        return module(settings)
    config = lora_jax.LoRAConfig(rank=recipe.rank, alpha=recipe.alpha, targets=recipe.targets, init_a=Normal(0.01))
    return lora_jax.LoRA(module(settings), config)


@dataclasses.dataclass(frozen=True)
class Splits:
    """What is learned from, what is chosen on, and what is measured on, old digits first there and then the new ones."""

    train: Split
    validation: Split
    test: Split


def splits(settings: Settings, data: Mnist) -> Splits:
    """The validation images are the same in every run."""
    held_out = np.random.default_rng(2).permutation(len(data.train.y)) < min(settings.held_out, len(data.train.y) // 5)
    train, validation = (Split(data.train.x[keep], data.train.y[keep]) for keep in (~held_out, held_out))
    return Splits(train, _old_first(validation, settings), _old_first(data.test, settings))


def _old_first(split: Split, settings: Settings) -> Split:
    order = np.argsort(np.isin(split.y, settings.new_digits), kind="stable")
    return Split(split.x[order], split.y[order])


def pretrain(folder: RunFolder, settings: Settings, data: Mnist) -> tuple[Any, dict[str, Any]]:
    """The bases [M, ...], and what they score."""
    memory.require(
        memory.of_bases(module(settings), settings.seeds),
        f"training {settings.seeds:,} bases at once",
        "give fewer --seeds",
    )
    parts = splits(settings, data)
    old, test = parts.train.of(settings.old_digits).on_device(), parts.test.on_device()
    bases, history = train_bases(
        folder, module(settings), old, test,
        seeds=settings.seeds, epochs=settings.base_epochs, batch_size=settings.batch_size, strategy=settings.strategy,
    )  # fmt: skip
    trained = trainer(
        settings, [1e-3] * settings.seeds, module(settings), bases, lora_jax.trainable_mask(bases, train="*")
    )
    return bases, {
        **scored(by_item(trained.sweep, right(module(settings)))(trained.state, {}, test), parts.test, settings),
        "errors_by_class": history[-1]["errors"].mean(axis=0).tolist(),
        "parameters": optax.tree.size(bases) // settings.seeds,
        "training_images": len(old["y"]),
    }


@dataclasses.dataclass(frozen=True)
class Trainer:
    """A sweep with its state before the first step."""

    sweep: sweep.Sweep
    state: sweep.SweepState


def trainer(
    settings: Settings, rates: Sequence[float], model: Any, stacked: Any, mask: Any, seeds: Sequence[int] | None = None
) -> Trainer:
    """Members that have one rank."""
    trained = sweep.Sweep(cross_entropy(model), optax.adam, settings.strategy, devices.mesh())
    seeds = range(len(rates)) if seeds is None else seeds
    return Trainer(trained, trained.start(stacked, mask, learning_rates=rates, seeds=seeds, padded=False))


def started(settings: Settings, recipe: Recipe, bases: Any, rates: Sequence[float], seeds: Sequence[int]) -> Trainer:
    """A recipe's members, one for each rate and seed; `bases` [M, ...] are those of the members."""
    model = wrapped(settings, recipe)
    if recipe.method == "full":
        return trainer(settings, rates, model, bases, lora_jax.trainable_mask(bases, train="*"), seeds)
    members = [
        sweep.Member(recipe.rank, float(recipe.alpha), rate, seed) for rate, seed in zip(rates, seeds, strict=True)
    ]
    stacked = lora_jax.combine(bases, sweep.init_adapters(model, members, jnp.ones((1, 784))))
    return trainer(settings, rates, model, stacked, lora_jax.trainable_mask(stacked), seeds)


def finetune(folder: RunFolder, settings: Settings, recipe: Recipe, bases: Any, data: Mnist):
    """One recipe on all seeds in one program, measured once on the test images: (trainer, row of the summary)."""
    before = jax.tree.map(np.asarray, bases)
    parts = splits(settings, data)
    test, model, seeds = parts.test.on_device(), wrapped(settings, recipe), range(settings.seeds)
    begun = started(settings, recipe, bases, [recipe.learning_rate] * settings.seeds, seeds)
    of_test = by_item(begun.sweep, right(model))
    is_lora = recipe.method == "LoRA"
    base_right = of_test(begun.state, {}, test)
    order, epochs = batches(settings, recipe, parts.train, seeds)
    state, _ = phases.train(
        folder, recipe.name, begun.sweep, begun.state, {}, parts.train.on_device(), order=order, blocks=epochs
    )
    correct = of_test(state, {}, test)
    row = {
        "name": recipe.name,
        "kind": recipe.kind,
        "recipe": dataclasses.asdict(recipe),
        "parameters": optax.tree.size(state.train.trainable) // settings.seeds,
        "steps": epochs * order(0).shape[1],
        **scored(correct, parts.test, settings),
        "errors_by_class": _errors(correct, parts.test).mean(axis=0).tolist(),
    }
    if is_lora:
        chex.assert_trees_all_equal(lora_jax.strip(lora_jax.combine(state.own, state.train.trainable)), before)
        off = of_test(state._replace(own=lora_jax.scaled(state.own, 0.0)), {}, test)
        row["adapter_off_equals_base"] = bool((off == base_right).all())
    return Trainer(begun.sweep, state), row


def _errors(correct: np.ndarray, split: Split) -> np.ndarray:
    """[M, C] of correct [M, I]."""
    return np.stack([np.bincount(split.y[row == 0], minlength=10) for row in correct])


def batches(settings: Settings, recipe: Recipe, train: Split, seeds: Sequence[int]):
    """(block -> [M, S, B], number of blocks): an epoch of all new images and `replay` times as many old ones.

    Each epoch draws its old images afresh, or takes those of the first; a seed's draw depends on the epoch alone.
    """
    new = np.flatnonzero(np.isin(train.y, settings.new_digits))
    old = np.flatnonzero(~np.isin(train.y, settings.new_digits))
    replayed = min(round(recipe.replay * len(new)), len(old))
    if replayed < round(recipe.replay * len(new)):
        print(
            f"{recipe.name}: {recipe.replay:g} old images per new one are more than there are; all {len(old):,} are replayed",
            flush=True,
        )
    size = len(new) + replayed

    @jax.jit
    def rows(seed, epoch):
        key = order_key(seed)
        drawn = jax.random.fold_in(jax.random.fold_in(key, 1), 0 if recipe.keeps else epoch)
        chosen = jax.random.permutation(drawn, jnp.asarray(old))
        pool = jnp.concatenate([jnp.asarray(new), chosen[:replayed]])
        return pool[training.epoch_order(key, epoch, size, settings.batch_size)].astype(jnp.int32)

    of_members = jnp.asarray(list(seeds), jnp.uint32)
    return lambda block: jax.vmap(rows, (0, None))(of_members, block), recipe.epochs


def scored(correct: np.ndarray, split: Split, settings: Settings) -> dict[str, Any]:
    """Accuracy on old and new digits and overall, each seed's, and each image's; correct [M, I], old digits first."""
    return {**with_outcomes(**scores(correct, split, settings)), "right": packed(correct)}


def scores(correct: np.ndarray, split: Split, settings: Settings) -> dict[str, np.ndarray]:
    """Shares [M] right of each group of digits."""
    return {name: correct[:, np.isin(split.y, digits)].mean(axis=1) for name, digits in settings.groups.items()}


def shares(errors: np.ndarray, split: Split, settings: Settings) -> dict[str, np.ndarray]:
    """The same of errors [..., C]."""
    counts = class_counts(split.y)
    return {name: accuracy(np.asarray(errors), counts, digits) for name, digits in settings.groups.items()}


def errors_of(begun: Trainer, model: Any):
    """(state, shared, data) -> errors [M, C]."""
    return begun.sweep.evaluation(errors_by_class(model), EVALUATION_BATCH)
