"""What rank does on MNIST: a base that knows the digits 0-7 is adapted to all ten, its old digits replayed.

Regimes: head only, LoRA on every layer at ranks r, full fine-tuning. Every regime and rank chooses its own learning
rate on held-out training images, so none is compared with a rival that was not tuned.
"""

import dataclasses
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

import lora_jax
from experiments.common import phases
from experiments.common.classification import accuracy, class_counts, cross_entropy, errors_by_class
from experiments.common.pretraining import EVALUATION_BATCH, order_key, train_bases
from experiments.common.recording import RunFolder
from experiments.common.statistics import estimate
from experiments.data.mnist import Mnist, Split
from lora_jax import sweep
from lora_jax.models.mlp import MLP

HIDDEN, DROPOUT = (512, 256, 128), 0.2
OLD, NEW = tuple(range(8)), (8, 9)
HEAD = "classifier"


@dataclasses.dataclass(frozen=True)
class Settings:
    """`steps` batches of `batch_size`, drawn from all ten digits, in `blocks` blocks; scale c = alpha/r is constant."""

    ranks: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    learning_rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    seeds: int = 5
    base_epochs: int = 3
    steps: int = 400
    blocks: int = 8
    batch_size: int = 64
    scale: float = 2.0
    strategy: str = "auto"


PRESETS = {
    "smoke": Settings(ranks=(1, 4), learning_rates=(1e-3,), seeds=2, base_epochs=1, steps=20, blocks=2),
    "quick": Settings(),
    "full": Settings(seeds=10, base_epochs=10, steps=2000, blocks=20),
}


@dataclasses.dataclass(frozen=True)
class Arrays:
    """On the device: training, validation (a tenth of the training images) and test sets, {"x", "y"} each."""

    old: dict[str, jax.Array]
    train: dict[str, jax.Array]
    validation: dict[str, jax.Array]
    test: dict[str, jax.Array]


def arrays(data: Mnist) -> Arrays:
    """The sets on the device; the validation images are the same in every run."""
    held_out = np.random.default_rng(0).permutation(len(data.train.y)) < len(data.train.y) // 10
    train, validation = (Split(data.train.x[keep], data.train.y[keep]) for keep in (~held_out, held_out))
    return Arrays(*(to_device(split) for split in (train.of(OLD), train, validation, data.test)))


def to_device(split: Split) -> dict[str, jax.Array]:
    return {"x": jnp.asarray(split.x), "y": jnp.asarray(split.y)}


def run(folder: RunFolder, settings: Settings, data: Mnist) -> dict[str, Any]:
    """Trains the base and the three regimes; returns the rows of the summary and the checks."""
    sets = arrays(data)
    model = MLP(HIDDEN, dropout=DROPOUT)
    bases, base_history = train_bases(
        folder, model, sets.old, sets.test, seeds=1, epochs=settings.base_epochs, batch_size=settings.batch_size
    )
    base = jax.tree.map(lambda leaf: leaf[0], bases)
    before = jax.tree.map(np.asarray, base)
    regimes = [_run_regime(folder, settings, sets, model, base, regime) for regime in ("head only", "LoRA", "full")]
    chex.assert_trees_all_equal(base, before)
    counts = class_counts(np.asarray(sets.test["y"]))
    return {
        "base": _accuracies(np.asarray(base_history[-1]["errors"][0]), counts),
        "rows": [row for regime in regimes for row in regime["rows"]],
        "traces": {regime["regime"]: regime["traces"] for regime in regimes},
        "base_unchanged": True,
        "data": data.record(),
    }


def _run_regime(folder, settings: Settings, sets: Arrays, model: MLP, base, regime: str) -> dict[str, Any]:
    """One program: ranks x learning rates x seeds; then the best rate per rank, judged on validation images."""
    ranks = settings.ranks if regime == "LoRA" else (0,)
    members = sweep.grid(
        ranks=ranks, alphas=(settings.scale,), learning_rates=settings.learning_rates, seeds=range(settings.seeds)
    )
    adapted, stacked, shared, train = _members_of(model, base, members, regime, settings)
    trainer = sweep.Sweep(cross_entropy(adapted), optax.adam, settings.strategy)
    state = trainer.start(
        stacked,
        lora_jax.trainable_mask(stacked, train=train),
        learning_rates=[member.learning_rate for member in members],
        seeds=[member.seed for member in members],
        padded=regime == "LoRA",
    )
    evaluate = trainer.evaluation(errors_by_class(adapted), EVALUATION_BATCH)
    state, history = phases.train(
        folder, regime.replace(" ", "_"), trainer, state, shared, sets.train,
        order=_orders(settings, members, len(sets.train["y"])), blocks=settings.blocks,
        follow=lambda state: evaluate(state, shared, sets.test),
    )  # fmt: skip
    validation = np.asarray(evaluate(state, shared, sets.validation)["errors"]).sum(axis=-1)
    one = sweep.member_params(state, shared, 0)
    total = sum(leaf.size for leaf in jax.tree.leaves(base))
    rows = [
        _row(
            regime,
            rank,
            members,
            validation,
            history,
            sets,
            parameters=_parameters(one, regime, rank, train),
            total=total,
        )
        for rank in ranks
    ]
    return {"regime": regime, "rows": rows, "traces": len(trainer.traces)}


def _members_of(model: MLP, base, members: list[sweep.Member], regime: str, settings: Settings):
    """(module to apply, stacked leaves, shared leaves, what trains beside adapters)."""
    if regime == "LoRA":
        adapted = lora_jax.LoRA(model, lora_jax.LoRAConfig(rank=1, scaling="constant", alpha=settings.scale))
        return adapted, sweep.init_adapters(adapted, members, jnp.ones((1, 784))), base, ()
    if regime == "head only":
        head = {HEAD: base[HEAD]}
        rest = {name: leaf for name, leaf in base.items() if name != HEAD}
        return model, sweep.broadcast(head, len(members)), rest, (HEAD,)
    return model, sweep.broadcast(base, len(members)), {}, ("*",)


def _orders(settings: Settings, members: list[sweep.Member], size: int):
    """block -> [M, S, B]: each seed has its own batches, the same for every rank and rate."""
    seeds = jnp.asarray([member.seed for member in members], jnp.uint32)
    shape = (settings.steps // settings.blocks, settings.batch_size)
    draw = jax.jit(
        jax.vmap(
            lambda seed, block: jax.random.randint(
                jax.random.fold_in(order_key(seed), block), shape, 0, size, jnp.int32
            ),
            (0, None),
        )
    )
    return lambda block: draw(seeds, block)


def _parameters(params, regime: str, rank: int, train) -> int:
    """Trainable parameters of one member; an adapter's as if it had not been padded."""
    if regime == "LoRA":
        return sum(rank * (row.a[0] + row.b[1]) for row in lora_jax.report(params).rows)
    return lora_jax.report(params, lora_jax.trainable_mask(params, train=train)).trainable


def _row(regime, rank, members, validation, history, sets: Arrays, *, parameters: int, total: int) -> dict[str, Any]:
    counts = class_counts(np.asarray(sets.test["y"]))
    rates = sorted({member.learning_rate for member in members})
    where = {rate: [i for i, m in enumerate(members) if m.rank == rank and m.learning_rate == rate] for rate in rates}
    wrong = {rate: float(validation[rows].mean()) for rate, rows in where.items()}
    best = min(rates, key=lambda rate: wrong[rate])
    errors = history[-1]["errors"][where[best]]  # [seeds, C]
    return {
        "regime": regime,
        "rank": rank or None,
        "learning_rate": best,
        "rate_at_edge": len(rates) > 1 and best in (rates[0], rates[-1]),
        "validation_errors_by_rate": {str(rate): count for rate, count in wrong.items()},
        "parameters": parameters,
        "share": parameters / (total + parameters) if regime == "LoRA" else parameters / total,
        **_accuracies(errors, counts),
        "errors_by_class": errors.mean(axis=0).tolist(),
        "curve": [float(accuracy(line["errors"][where[best]], counts).mean()) for line in history],
    }


def _accuracies(errors: np.ndarray, counts: np.ndarray) -> dict[str, Any]:
    groups = {"accuracy": tuple(range(10)), "accuracy_0_7": OLD, "accuracy_8_9": NEW}
    return {name: estimate(np.atleast_1d(accuracy(errors, counts, digits))) for name, digits in groups.items()}
