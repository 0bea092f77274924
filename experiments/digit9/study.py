"""S0 and S1: a base that knows all ten digits is fine-tuned on 100 batches of digit 9. What happens to the others?

Letters: M seeds (each with its own base), C classes, B batch.
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
from experiments.common.classification import class_counts, cross_entropy, errors_by_class, focal_loss
from experiments.common.pretraining import EVALUATION_BATCH, train_bases
from experiments.common.recording import RunFolder
from experiments.common.statistics import estimate
from experiments.data.mnist import Mnist, Split
from experiments.digit9.settings import DIGIT, PRESETS
from experiments.digit9.treatments import S0_TREATMENTS, S1_TREATMENTS, Treatment, draw_batches
from lora_jax import sweep
from lora_jax.models.mlp import MLP
from lora_jax.tree import flat

VALIDATION = 5000  # training images held out for early stopping


@dataclasses.dataclass(frozen=True)
class Settings:
    """A study: the base and how it was trained, where LoRA sits, and the digit-9 batches."""

    study: str
    hidden: tuple[int, ...]
    base_batch: int
    targets: tuple[str, ...]
    seeds: int = PRESETS["full"].seeds
    base_epochs: int = 1
    batches: int = 100
    batch_size: int = 10
    blocks: int = 20
    limit: int | None = None  # training images used; None for all
    digit: int = DIGIT
    treatments: tuple[Treatment, ...] = ()
    strategy: str = "auto"


# S0 gives no architecture: this one has the adapters it describes, 8.9 % at r = 16 on the final linear layers.
S0 = Settings(
    "s0", (64, 64, 64), base_batch=64, targets=("hidden_1", "hidden_2", "classifier"), treatments=S0_TREATMENTS
)
S1 = Settings(
    "s1", (1000, 2000), base_batch=10, targets=("all-linear",), treatments=S1_TREATMENTS, strategy="sequential"
)


def presets(study: Settings) -> dict[str, Settings]:
    """smoke and quick use fewer seeds; smoke and S1's quick use fewer images too."""
    found = {
        "smoke": dataclasses.replace(study, limit=2000, batches=10, blocks=2, treatments=study.treatments[:5]),
        "quick": dataclasses.replace(study, limit=None if study.study == "s0" else 20_000),
        "full": study,
    }
    return {name: dataclasses.replace(settings, seeds=PRESETS[name].seeds) for name, settings in found.items()}


def run(folder: RunFolder, settings: Settings, data: Mnist) -> dict[str, Any]:
    """Trains the bases, applies every treatment, checks that no base moved; returns the summary."""
    memory.require(
        memory.of_bases(MLP(settings.hidden), settings.seeds),
        f"training {settings.seeds:,} bases at once",
        "give fewer --seeds",
    )
    train, validation = _split(data.train, settings)
    splits = {"train": train, "validation": validation, "test": data.test}
    sets = {name: split.on_device() for name, split in splits.items()}
    model = MLP(settings.hidden)
    bases, _ = train_bases(
        folder, model, sets["train"], sets["test"],
        seeds=settings.seeds, epochs=settings.base_epochs, batch_size=settings.base_batch,
        blocks_per_epoch=min(6, len(train.y) // settings.base_batch), strategy=settings.strategy,
    )  # fmt: skip
    before = jax.tree.map(np.asarray, bases)
    rows = [_treat(folder, settings, treatment, model, bases, sets) for treatment in settings.treatments]
    chex.assert_trees_all_equal(bases, before)
    return {
        "study": settings.study,
        "rows": rows,
        "test_counts": class_counts(data.test.y).tolist(),
        "base_parameters": optax.tree.size(bases) // settings.seeds,
        "base_unchanged": True,
        "data": data.record(),
    }


def _split(train: Split, settings: Settings) -> tuple[Split, Split]:
    """Training images (all of them in S1, which has no validation), and images for early stopping."""
    shuffled = np.random.default_rng(1).permutation(len(train.y))
    held_out = min(VALIDATION, len(train.y) // 10)
    chosen = shuffled if settings.study == "s1" else shuffled[held_out:]
    chosen, validation = np.sort(chosen[: settings.limit]), shuffled[:held_out]
    return Split(train.x[chosen], train.y[chosen]), Split(train.x[validation], train.y[validation])


def _treat(folder, settings: Settings, treatment: Treatment, model: MLP, bases, sets) -> dict[str, Any]:
    """One treatment on all seeds in one program; its row of the summary."""
    start = _quantised(model, bases) if treatment.quantise else bases
    adapted, stacked = _adapted(settings, treatment, model, start)
    mask = lora_jax.trainable_mask(stacked, train=treatment.train)
    loss = {"cross entropy": cross_entropy, "focal": focal_loss}[treatment.loss](adapted)
    trainer = sweep.Sweep(loss, _optimizer(treatment), settings.strategy, devices.mesh())
    seeds = range(settings.seeds)
    rates = [treatment.learning_rate] * settings.seeds
    state = trainer.start(stacked, mask, learning_rates=rates, seeds=seeds, padded=False)
    evaluate = trainer.evaluation(errors_by_class(adapted), EVALUATION_BATCH)
    batches = _batches(settings, treatment, np.asarray(sets["train"]["y"]))

    followed = ("test", "validation") if treatment.stop_early else ("test",)

    def follow(state):
        return {name: evaluate(state, {}, sets[name])["errors"] for name in followed}

    state, history = phases.train(
        folder, treatment.name, trainer, state, {}, sets["train"],
        order=lambda block: batches[block], blocks=settings.blocks, follow=follow,
    )  # fmt: skip
    _assert_frozen_unmoved(state, start, mask)
    row = _row(settings, treatment, history, sets)
    row["parameters"] = lora_jax.report(jax.tree.map(lambda leaf: leaf[0], stacked), mask).trainable
    if treatment.rank is not None and treatment.kind == "study":
        row["adapter_off_errors"] = _adapter_off(state, evaluate, sets).tolist()
        row["adapter_off_equals_base"] = row["adapter_off_errors"] == row["before_by_seed"]
    return row


def _quantised(model: MLP, bases):
    """The bases [M, ...] as QLoRA keeps them, their maxima in float32."""
    return lora_jax.quantised.quantise(bases, lora_jax.layout(model, jnp.ones((1, 784))), double=False)


def _adapted(settings: Settings, treatment: Treatment, model: MLP, bases):
    """The module to apply, and leaves [M, ...]: the bases, with adapters where the treatment has them."""
    if treatment.rank is None:
        return model, bases
    config = lora_jax.LoRAConfig(
        rank=treatment.rank, alpha=treatment.alpha, targets=settings.targets, init_a=treatment.init_a
    )
    adapted = lora_jax.LoRA(model, config)
    members = [
        sweep.Member(treatment.rank, config.alpha, treatment.learning_rate, seed) for seed in range(settings.seeds)
    ]
    return adapted, lora_jax.combine(bases, sweep.init_adapters(adapted, members, jnp.ones((1, 784))))


def _optimizer(treatment: Treatment):
    if treatment.decay:
        return lambda rate: optax.adamw(rate, weight_decay=treatment.decay)
    return optax.adam


def _batches(settings: Settings, treatment: Treatment, labels: np.ndarray) -> list[jax.Array]:
    """Per block, indices [M, S, B]; every treatment of a stream sees the same batches."""
    drawn = [
        draw_batches(treatment.stream, settings.digit, labels, seed, settings.batches, settings.batch_size)
        for seed in range(settings.seeds)
    ]
    return [jnp.asarray(block) for block in np.split(np.stack(drawn), settings.blocks, axis=1)]


def _assert_frozen_unmoved(state: sweep.SweepState, start, mask) -> None:
    """The frozen leaves of the base are bitwise those it started from."""
    own, base, marks = flat(state.own), flat(start), flat(mask)
    chex.assert_trees_all_equal(
        {path: own[path] for path in base if marks[path] is not True},
        {path: base[path] for path in base if marks[path] is not True},
    )


def _adapter_off(state: sweep.SweepState, evaluate, sets) -> np.ndarray:
    """Test errors [M, C] of the trained state with the adapter's scale at 0."""
    off = state._replace(own=lora_jax.scaled(state.own, 0.0))
    return np.asarray(evaluate(off, {}, sets["test"])["errors"])


def _row(settings: Settings, treatment: Treatment, history, sets) -> dict[str, Any]:
    test = np.stack([line["test"] for line in history])  # [blocks + 1, M, C]
    members = np.arange(test.shape[1])
    chosen = np.full(len(members), len(test) - 1)
    if treatment.stop_early:
        chosen = np.stack([line["validation"] for line in history]).sum(axis=-1).argmin(axis=0)  # [M]
    before, after = test[0], test[chosen, members]
    total = int(class_counts(np.asarray(sets["test"]["y"])).sum())
    others = [digit for digit in range(10) if digit != settings.digit]
    per_block = settings.batches // settings.blocks
    return {
        "name": treatment.name,
        "kind": treatment.kind,
        "accuracy_before": estimate(1 - before.sum(axis=1) / total),
        "accuracy_after": estimate(1 - after.sum(axis=1) / total),
        "before": [estimate(before[:, digit]) for digit in range(10)],
        "after": [estimate(after[:, digit]) for digit in range(10)],
        "digit_before": estimate(before[:, settings.digit]),
        "digit_after": estimate(after[:, settings.digit]),
        "others_added": estimate((after - before)[:, others].sum(axis=1)),
        "net_errors_added": estimate((after - before).sum(axis=1)),
        "others_added_at_equal_gain": _at_equal_gain(test, settings.digit, others),
        "stopped_at_batch": estimate(chosen * per_block) if treatment.stop_early else None,
        "before_by_seed": before.tolist(),
        "curve_batches": [block * per_block for block in range(len(test))],
        "curve": test.mean(axis=1).tolist(),
    }


def _at_equal_gain(test: np.ndarray, digit: int, others: list[int], remaining: float = 0.5) -> dict[str, Any] | None:
    """Errors added elsewhere at the first measurement where half of the digit's errors are gone; None if not always."""
    reached = test[:, :, digit] <= remaining * test[0, :, digit]  # [blocks + 1, M]
    if not reached.any(axis=0).all():
        return None
    members = np.arange(test.shape[1])
    return estimate((test[reached.argmax(axis=0), members] - test[0])[:, others].sum(axis=1))
