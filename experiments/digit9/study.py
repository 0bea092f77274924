"""S0 and S1: a base that knows all ten digits is fine-tuned on 100 batches of digit 9. What happens to the others?

Letters: K measurements, M seeds (each with its own base), C classes, B batch.
"""

import dataclasses
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

import lora_jax
from experiments.common import memory, phases
from experiments.common.classification import class_counts
from experiments.common.pretraining import train_bases
from experiments.common.recording import RunFolder, slug
from experiments.data.mnist import Mnist, Split
from experiments.digit9 import outcomes
from experiments.digit9.programs import IMAGE, Program, kind
from experiments.digit9.settings import DIGIT, PRESETS
from experiments.digit9.treatments import S0_TREATMENTS, S1_TREATMENTS, Treatment, draw_batches
from lora_jax import sweep
from lora_jax.models.mlp import MLP
from lora_jax.tree import flat

VALIDATION = 5000  # training images held out for early stopping
QUICK_RANKS = (1, 16)


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
    measured: tuple[tuple[int, int], ...] = (
        (100, 1),
    )  # (until, every): errors are counted every so many batches until then
    limit: int | None = None  # training images used; None for all
    digit: int = DIGIT
    treatments: tuple[Treatment, ...] = ()
    strategy: str = "auto"


# S0 gives no architecture: this one has the adapters it describes, 8.9 % at r = 16 on the final linear layers.
S0 = Settings(
    "s0", (64, 64, 64), base_batch=64, targets=("hidden_1", "hidden_2", "classifier"), treatments=S0_TREATMENTS
)
# Ten thousand images take S1's network as long as 300 of its LoRA steps: every batch while errors run, then about a tenth of the way each.
S1 = Settings(
    "s1", (1000, 2000), base_batch=10, targets=("all-linear",), treatments=S1_TREATMENTS, strategy="sequential",
    measured=((6, 1), (12, 2), (60, 4), (100, 10)),
)  # fmt: skip


def presets(study: Settings) -> dict[str, Settings]:
    """smoke and quick use fewer seeds, measurements and rows; smoke and S1's quick use fewer images, too."""
    few = tuple(row for row in study.treatments if row.kind != "rank" or row.rank in QUICK_RANKS)
    quick = dataclasses.replace(study, treatments=few, measured=((4, 1), (20, 4), (100, 10)))
    if study.study == "s1":
        quick = dataclasses.replace(quick, limit=12_000, measured=((2, 2), (10, 8), (50, 40), (100, 50)))
    found = {
        "smoke": dataclasses.replace(study, limit=2000, batches=10, measured=((10, 5),), treatments=_sample(study)),
        "quick": quick,
        "full": study,
    }
    return {name: dataclasses.replace(settings, seeds=PRESETS[name].seeds) for name, settings in found.items()}


def _sample(study: Settings) -> tuple[Treatment, ...]:
    """One row of each kind and step, the study's first."""
    found = {(row.kind, row.step): row for row in reversed(study.treatments)}
    return tuple(row for row in study.treatments if row in found.values())


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
    rows = _rows(folder, settings, model, bases, sets)
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


def _rows(folder: RunFolder, settings: Settings, model: MLP, bases, sets) -> list[dict[str, Any]]:
    """A row of each treatment, the study's first; those that are done are read again."""
    programs, rows = {}, []
    for treatment in settings.treatments:
        name = f"rows/{slug(treatment.name)}.json"
        row = folder.read(name)
        if row is None:
            key = kind(treatment, settings.targets, settings.digit)
            program = programs.setdefault(key, Program(model, key, settings.strategy))
            row = _treat(folder, settings, treatment, program, bases, sets, rows[0] if rows else None)
            folder.write(name, row)
        phases.forget_saves(folder, treatment.name)
        rows.append(row)
    return rows


def _treat(folder, settings: Settings, treatment: Treatment, program: Program, bases, sets, study) -> dict[str, Any]:
    """One treatment on all seeds in one program; its row of the summary."""
    start = _quantised(program.model, bases) if treatment.quantise else bases
    stacked, trainable = program.adapted(treatment, start)
    mask = lora_jax.trainable_mask(stacked, train=treatment.train)
    state = program.trainer.start(
        stacked, mask,
        learning_rates=[treatment.learning_rate] * settings.seeds, seeds=range(settings.seeds),
        padded=treatment.rank is not None,
    )  # fmt: skip
    is_study = study is None
    before = _confusions(program, state, sets) if is_study else None
    state, history, batches = _train(folder, settings, treatment, program, state, sets)
    _assert_frozen_unmoved(state, start, mask)
    row = _row(settings, treatment, history, batches, sets, study)
    row["parameters"] = trainable
    if is_study:
        row |= {"confusions_before": before, "confusions_after": _confusions(program, state, sets)}
        row["curve"] = outcomes.classes(np.stack([line["test"] for line in history]))
        row["adapter_off_errors"] = _adapter_off(program, state, sets).tolist()
        row["adapter_off_equals_base"] = row["adapter_off_errors"] == row["before_by_seed"]
    return row


def _train(folder, settings: Settings, treatment: Treatment, program: Program, state: sweep.SweepState, sets):
    """The state after all batches, what was measured [K], and how many batches lie before each measurement."""
    ends = measured_after(settings)
    drawn = _batches(settings, treatment, np.asarray(sets["train"]["y"]))
    blocks = np.split(drawn, ends[:-1], axis=1)
    followed = ("test", "validation") if treatment.stop_early else ("test",)

    def follow(state):
        return {name: program.errors(state, {}, sets[name])["errors"] for name in followed}

    state, history = phases.train(
        folder, treatment.name, program.trainer, state, {}, sets["train"],
        order=lambda block: jnp.asarray(blocks[block]), blocks=len(blocks), follow=follow,
    )  # fmt: skip
    return state, history, np.asarray([0, *ends])


def measured_after(settings: Settings) -> list[int]:
    """Batches after which errors are counted, the last of them included.

    >>> import dataclasses
    >>> measured_after(dataclasses.replace(S1, batches=20))
    [1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20]
    """
    ends = [_gap(settings, 0)]
    while ends[-1] < settings.batches:
        ends.append(ends[-1] + _gap(settings, ends[-1]))
    return ends


def _gap(settings: Settings, done: int) -> int:
    every = next((every for until, every in settings.measured if done < until), settings.batches)
    return min(every, settings.batches - done)


def _quantised(model: MLP, bases):
    """The bases [M, ...] as QLoRA keeps them, their maxima in float32."""
    return lora_jax.quantised.quantise(bases, lora_jax.layout(model, jnp.ones(IMAGE)), double=False)


def _batches(settings: Settings, treatment: Treatment, labels: np.ndarray) -> np.ndarray:
    """Indices [M, S, B]; every treatment of a stream sees the same batches."""
    drawn = [
        draw_batches(treatment.stream, settings.digit, labels, seed, settings.batches, settings.batch_size)
        for seed in range(settings.seeds)
    ]
    return np.stack(drawn)


def _assert_frozen_unmoved(state: sweep.SweepState, start, mask) -> None:
    """The frozen leaves of the base are bitwise those it started from."""
    own, base, marks = flat(state.own), flat(start), flat(mask)
    chex.assert_trees_all_equal(
        {path: own[path] for path in base if marks[path] is not True},
        {path: base[path] for path in base if marks[path] is not True},
    )


def _confusions(program: Program, state: sweep.SweepState, sets) -> list:
    """Test errors [M, C, C]: of each class, taken for which."""
    return np.asarray(program.confusions(state, {}, sets["test"])["confusions"])[: len(state.learning_rate)].tolist()


def _adapter_off(program: Program, state: sweep.SweepState, sets) -> np.ndarray:
    """Test errors [M, C] of the trained state with the adapter's scale at 0."""
    off = state._replace(own=lora_jax.scaled(state.own, 0.0))
    return np.asarray(program.errors(off, {}, sets["test"])["errors"])


def _row(settings: Settings, treatment: Treatment, history, batches: np.ndarray, sets, study) -> dict[str, Any]:
    test = np.stack([line["test"] for line in history])  # [K, M, C]
    chosen = np.full(test.shape[1], len(test) - 1)
    if treatment.stop_early:
        chosen = np.stack([line["validation"] for line in history]).sum(axis=-1).argmin(axis=0)  # [M]
    images = len(sets["test"]["y"])
    told = ("name", "kind", "step", "rank", "alpha", "learning_rate", "targets")
    about = {name: getattr(treatment, name) for name in told}
    measured = outcomes.row(test, chosen, batches, digit=settings.digit, images=images, study=study)
    if treatment.kind == "mitigation":
        del measured["curves"]  # half of the rows; what their tests rest on is in `by_seed`
    stopped = batches[chosen].tolist() if treatment.stop_early else None
    if stopped:
        measured["by_seed"]["stopped_at_batch"] = stopped
    return about | measured | {"stopped_at_batch": outcomes.estimate(stopped) if stopped else None}
