"""S3: a base that knows the digits 0-7 learns 8 and 9 through LoRA. What is gained, what is forgotten, what prevents it?

Letters: M seeds (each with its own base), C classes.
"""

import dataclasses
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

import lora_jax
from experiments.common import devices, memory, phases
from experiments.common.classification import accuracy, class_counts, cross_entropy, errors_by_class
from experiments.common.pretraining import EVALUATION_BATCH, order_key, train_bases
from experiments.common.recording import RunFolder
from experiments.common.statistics import estimate
from experiments.data.mnist import Mnist, Split
from experiments.new_digits.settings import PRESETS as PRESETS
from experiments.new_digits.settings import Settings
from lora_jax import sweep, training
from lora_jax.initializers import Normal
from lora_jax.models.mlp import MLP


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How the new digits are learned. `replay`: old images per new one. `kind` groups figures."""

    name: str
    kind: str
    rank: int = 16
    alpha: float = 16
    targets: tuple[str, ...] = ("all-linear",)
    replay: float = 0.0
    learning_rate: float = 1e-3
    epochs: int = 5


STUDY = Recipe("8-9 alone, as the study", "study")
LATER = Recipe(
    "later version: replay 0.8, head only", "later",
    rank=8, alpha=16, targets=("classifier",), replay=0.8, learning_rate=1e-4, epochs=8,
)  # fmt: skip
LATER_TUNED = dataclasses.replace(LATER, name="later version at lr 1e-3", learning_rate=1e-3)
# What it takes: as many old images as the base was trained on, and more epochs than the study's five.
HONEST = Recipe("replay 4, all layers, 12 epochs", "honest", replay=4.0, epochs=12)


def recipes(settings: Settings) -> list[Recipe]:
    """The study's, its later version's, the curve over the replay ratio on every layer, and the honest recipe."""
    curve = [Recipe(f"replay {ratio:g}, all layers", "curve", replay=ratio) for ratio in settings.replays]
    return [STUDY, LATER, LATER_TUNED, *curve, HONEST]


def module(settings: Settings) -> MLP:
    return MLP(settings.hidden, dropout=settings.dropout)


def wrapped(settings: Settings, recipe: Recipe) -> lora_jax.LoRA:
    """The model of a recipe; A ~ N(0, 0.01^2), as the study draws it."""
    config = lora_jax.LoRAConfig(rank=recipe.rank, alpha=recipe.alpha, targets=recipe.targets, init_a=Normal(0.01))
    return lora_jax.LoRA(module(settings), config)


def pretrain(folder: RunFolder, settings: Settings, data: Mnist) -> tuple[Any, dict[str, Any]]:
    """The bases [M, ...], and what they score."""
    memory.require(
        memory.of_bases(module(settings), settings.seeds),
        f"training {settings.seeds:,} bases at once",
        "give fewer --seeds",
    )
    old, test = (split.on_device() for split in (data.train.of(settings.old_digits), data.test))
    bases, history = train_bases(
        folder, module(settings), old, test,
        seeds=settings.seeds, epochs=settings.base_epochs, batch_size=settings.batch_size, strategy=settings.strategy,
    )  # fmt: skip
    return bases, {
        **_scores(history[-1]["errors"], data.test, settings),
        "errors_by_class": history[-1]["errors"].mean(axis=0).tolist(),
        "parameters": optax.tree.size(bases) // settings.seeds,
        "training_images": len(old["y"]),
        "followed_errors_by_class": [line["errors"].mean(axis=0).tolist() for line in history],
    }


def finetune(folder: RunFolder, settings: Settings, recipe: Recipe, bases: Any, data: Mnist):
    """One recipe on all seeds in one program: (adapters [M, ...], row of the summary)."""
    before = jax.tree.map(np.asarray, bases)
    train, test = data.train.on_device(), data.test.on_device()
    model = wrapped(settings, recipe)
    members = sweep.grid(
        ranks=(recipe.rank,),
        alphas=(float(recipe.alpha),),
        learning_rates=(recipe.learning_rate,),
        seeds=range(settings.seeds),
    )
    stacked = lora_jax.combine(bases, sweep.init_adapters(model, members, jnp.ones((1, 784))))
    mask = lora_jax.trainable_mask(stacked)
    trainer = sweep.Sweep(cross_entropy(model), optax.adam, settings.strategy, devices.mesh())
    state = trainer.start(stacked, mask, members=members)
    evaluate = trainer.evaluation(errors_by_class(model), EVALUATION_BATCH)
    order, blocks = _batches(settings, recipe, data.train)
    state, history = phases.train(
        folder, recipe.name, trainer, state, {}, train,
        order=order, blocks=blocks, follow=lambda state: evaluate(state, {}, test),
    )  # fmt: skip
    trained = lora_jax.combine(state.own, state.train.trainable)
    chex.assert_trees_all_equal(lora_jax.strip(trained), before)
    off = np.asarray(evaluate(state._replace(own=lora_jax.scaled(state.own, 0.0)), {}, test)["errors"])
    row = {
        "name": recipe.name,
        "kind": recipe.kind,
        "recipe": dataclasses.asdict(recipe),
        "parameters": lora_jax.report(jax.tree.map(lambda leaf: leaf[0], stacked)).adapter,
        **_scores(history[-1]["errors"], data.test, settings),
        "errors_by_class": history[-1]["errors"].mean(axis=0).tolist(),
        "followed_errors_by_class": [line["errors"].mean(axis=0).tolist() for line in history],
        "adapter_off_equals_base": bool((off == history[0]["errors"]).all()),
    }
    return lora_jax.adapter_of(trained), row


def _batches(settings: Settings, recipe: Recipe, train: Split):
    """(block -> [M, S, B], number of blocks): an epoch of all new images and `replay` times as many old ones.

    Each epoch draws its old images afresh; a seed's draw depends on the epoch alone.
    """
    new = np.flatnonzero(np.isin(train.y, settings.new_digits))
    old = np.flatnonzero(~np.isin(train.y, settings.new_digits))
    replayed = min(round(recipe.replay * len(new)), len(old))
    size = len(new) + replayed

    @jax.jit
    def rows(seed, epoch):
        key = order_key(seed)
        chosen = jax.random.permutation(jax.random.fold_in(jax.random.fold_in(key, 1), epoch), jnp.asarray(old))
        pool = jnp.concatenate([jnp.asarray(new), chosen[:replayed]])
        return pool[training.epoch_order(key, epoch, size, settings.batch_size)].astype(jnp.int32)

    seeds = jnp.arange(settings.seeds, dtype=jnp.uint32)
    blocks = max(1, round(recipe.epochs * settings.epoch_share))
    return lambda block: jax.vmap(rows, (0, None))(seeds, block), blocks


def _scores(errors: np.ndarray, test: Split, settings: Settings) -> dict[str, Any]:
    """Accuracy on old and new digits and overall, from errors [M, C]."""
    counts = class_counts(test.y)
    return {name: estimate(accuracy(np.asarray(errors), counts, digits)) for name, digits in settings.groups.items()}
