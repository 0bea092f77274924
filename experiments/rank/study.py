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
from experiments.common import devices, memory, phases
from experiments.common.classification import accuracy, class_counts, cross_entropy, errors_by_class
from experiments.common.errors import UserError
from experiments.common.pretraining import EVALUATION_BATCH, order_key, train_bases
from experiments.common.recording import RunFolder
from experiments.common.statistics import estimate
from experiments.data.mnist import Mnist, Split
from experiments.rank.settings import DROPOUT, HIDDEN, Settings
from experiments.rank.settings import PRESETS as PRESETS
from lora_jax import sweep
from lora_jax.models.mlp import MLP

OLD, NEW = tuple(range(8)), (8, 9)
HEAD = "classifier"
REGIMES = ("head only", "LoRA", "full")
FOLLOWED = 1000  # validation images scored during training; a sweep of 90 members cannot afford all of them
GROUPS = {"accuracy": tuple(range(10)), "accuracy_0_7": OLD, "accuracy_8_9": NEW}


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
    return Arrays(*(split.on_device() for split in (train.of(OLD), train, validation, data.test)))


def run(folder: RunFolder, settings: Settings, data: Mnist) -> dict[str, Any]:
    """Trains the base and the three regimes; returns the rows of the summary and the checks."""
    memory.require(needed(settings), _all_at_once(settings), "give fewer --seeds, --ranks or --learning_rates")
    sets = arrays(data)
    model = MLP(HIDDEN, dropout=DROPOUT)
    bases, base_history = train_bases(
        folder, model, sets.old, sets.test, seeds=1, epochs=settings.base_epochs, batch_size=settings.batch_size
    )
    base = jax.tree.map(lambda leaf: leaf[0], bases)
    before = jax.tree.map(np.asarray, base)
    outcomes = [_run_regime(folder, settings, sets, model, base, regime) for regime in REGIMES]
    chex.assert_trees_all_equal(base, before)
    counts = class_counts(np.asarray(sets.test["y"]))
    size = optax.tree.size(base)
    return {
        "base": _accuracies(np.asarray(base_history[-1]["errors"][0]), counts),
        "rows": [row for outcome in outcomes for row in _rows(outcome, sets, size)],
        "traces": {outcome.regime: outcome.traces for outcome in outcomes},
        "base_unchanged": True,
        "data": data.record(),
    }


def needed(settings: Settings) -> int:
    """Bytes, at least, of the largest regime's program."""
    model, x = MLP(HIDDEN, dropout=DROPOUT), jnp.ones((1, 784))
    base = memory.bytes_of(jax.eval_shape(model.init, jax.random.key(0), x))
    lora = len(settings.ranks) * len(settings.lora_rates) * settings.seeds
    factors = memory.of_adapters(model, lora_jax.LoRAConfig(rank=1), max(settings.ranks), x)
    full = len(settings.full_rates) * settings.seeds
    return max(memory.of_training(lora, factors), memory.of_training(full, base))


def _all_at_once(settings: Settings) -> str:
    return f"training {len(settings.ranks) * len(settings.lora_rates) * settings.seeds:,} adapters at once"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a regime's program gave. M members, C classes."""

    regime: str
    members: list[sweep.Member]
    validation: np.ndarray  # [M, C] errors on the validation images at the end
    test: np.ndarray  # [M, C] errors on the test images at the end
    followed: np.ndarray  # [blocks + 1, M, C] errors on the followed images
    finite: np.ndarray  # bool [M], whose loss stayed so
    parameters: dict[int, int]  # rank -> trainable parameters of a member
    traces: int


def _run_regime(folder, settings: Settings, sets: Arrays, model: MLP, base, regime: str) -> Outcome:
    """One program: ranks x learning rates x seeds."""
    ranks = settings.ranks if regime == "LoRA" else (0,)
    rates = dict(zip(REGIMES, (settings.head_rates, settings.lora_rates, settings.full_rates), strict=True))[regime]
    members = [
        sweep.Member(rank, settings.scale, rate, seed)
        for rank in ranks
        for rate in rates
        for seed in range(settings.seeds)
    ]
    adapted, stacked, shared, train = _members_of(model, base, members, regime, settings)
    trainer = sweep.Sweep(cross_entropy(adapted), optax.adam, settings.strategy, devices.mesh())
    state = trainer.start(
        stacked,
        lora_jax.trainable_mask(stacked, train=train),
        members=members,
    )
    evaluate = trainer.evaluation(errors_by_class(adapted), EVALUATION_BATCH)
    followed = {name: leaf[:FOLLOWED] for name, leaf in sets.validation.items()}
    state, history = phases.train(
        folder, regime, trainer, state, shared, sets.train,
        order=_orders(settings, members, len(sets.train["y"])), blocks=settings.blocks,
        follow=lambda state: evaluate(state, shared, followed),
    )  # fmt: skip
    one = sweep.member_params(state, shared, 0)
    return Outcome(
        regime=regime,
        members=members,
        validation=np.asarray(evaluate(state, shared, sets.validation)["errors"]),
        test=np.asarray(evaluate(state, shared, sets.test)["errors"]),
        followed=np.stack([line["errors"] for line in history]),
        finite=np.isfinite(np.stack([line["loss"] for line in history[1:]])).all(axis=0),
        parameters={rank: _parameters(one, regime, rank, train) for rank in ranks},
        traces=phases.traces(history),
    )


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


def _rows(outcome: Outcome, sets: Arrays, base_parameters: int) -> list[dict[str, Any]]:
    """One row per rank, at the learning rate that does best on the validation images, averaged over seeds."""
    return [_row(outcome, rank, sets, base_parameters) for rank in outcome.parameters]


def _row(outcome: Outcome, rank: int, sets: Arrays, base_parameters: int) -> dict[str, Any]:
    rates = sorted({member.learning_rate for member in outcome.members})
    where = {r: [i for i, m in enumerate(outcome.members) if (m.rank, m.learning_rate) == (rank, r)] for r in rates}
    wrong = {rate: float(outcome.validation[rows].sum(axis=-1).mean()) for rate, rows in where.items()}
    converged = [rate for rate in rates if outcome.finite[where[rate]].all()]
    if not converged:
        raise UserError(f"training diverged at every learning rate of {outcome.regime}; give lower --learning_rates.")
    best = min(converged, key=lambda rate: wrong[rate])
    parameters = outcome.parameters[rank]
    followed_counts = class_counts(np.asarray(sets.validation["y"][:FOLLOWED]))
    return {
        "regime": outcome.regime,
        "rank": rank or None,
        "learning_rate": best,
        "rate_at_edge": len(rates) > 1 and best in (rates[0], rates[-1]),
        "validation_errors_by_rate": {str(rate): count for rate, count in wrong.items()},
        "parameters": parameters,
        "share": parameters / (base_parameters + (parameters if outcome.regime == "LoRA" else 0)),
        **_accuracies(outcome.test[where[best]], class_counts(np.asarray(sets.test["y"]))),
        "errors_by_class": outcome.test[where[best]].mean(axis=0).tolist(),
        "followed_accuracy": accuracy(outcome.followed[:, where[best]], followed_counts).mean(axis=1).tolist(),
        "followed_errors_by_class": outcome.followed[:, where[best]].mean(axis=1).tolist(),
    }


def _accuracies(errors: np.ndarray, counts: np.ndarray) -> dict[str, Any]:
    return {name: estimate(np.atleast_1d(accuracy(errors, counts, digits))) for name, digits in GROUPS.items()}
