"""Rows that differ in numbers alone (rank, alpha, rate, what A is drawn from, the batches) share one compiled program.

Letters: M seeds (each with its own base), C classes.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

import lora_jax
from experiments.common import devices
from experiments.common.classification import confusions, cross_entropy, errors_by_class, focal_loss
from experiments.common.pretraining import EVALUATION_BATCH
from experiments.digit9.treatments import Treatment, shares
from lora_jax import sweep
from lora_jax.lowrank import pad_rank
from lora_jax.tree import flat, nested

PADDED = (16, 64)  # ranks are padded to the next of these, so that 1 to 16 are one program
IMAGE = (1, 784)


@dataclasses.dataclass(frozen=True)
class Kind:
    """What a program depends on."""

    rank: int | None  # as padded
    targets: tuple[str, ...]
    train: tuple[str, ...]
    loss: str
    class_weights: tuple[float, ...] | None
    decay: float
    quantise: bool


def kind(treatment: Treatment, targets: tuple[str, ...], digit: int) -> Kind:
    """The program that a treatment needs."""
    padded = treatment.rank and next((rank for rank in PADDED if treatment.rank <= rank), treatment.rank)
    weights = tuple((0.1 / shares(treatment.stream, digit)).tolist()) if treatment.is_weighted else None
    return Kind(
        padded, treatment.targets or targets, treatment.train, treatment.loss, weights, treatment.decay, treatment.quantise
    )  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """A module, with adapters or not, its trainer, and what is measured; compiled once for all of its rows."""

    model: nn.Module
    kind: Kind
    strategy: str

    @functools.cached_property
    def module(self) -> nn.Module:
        """What is applied: the model, under a wrapper where it has adapters."""
        if self.kind.rank is None:
            return self.model
        return lora_jax.LoRA(self.model, lora_jax.LoRAConfig(rank=self.kind.rank, targets=self.kind.targets))

    @functools.cached_property
    def trainer(self) -> sweep.Sweep:
        """Adam, or AdamW where weights decay."""
        loss = focal_loss(self.module) if self.kind.loss == "focal" else self._cross_entropy()
        return sweep.Sweep(loss, self._optimizer, self.strategy, devices.mesh())

    @functools.cached_property
    def errors(self) -> Callable:
        """(state, shared, data) -> {"errors": [M, C]}."""
        return self.trainer.evaluation(errors_by_class(self.module), EVALUATION_BATCH)

    @functools.cached_property
    def confusions(self) -> Callable:
        """(state, shared, data) -> {"confusions": [M, C, C]}, right answers left out."""
        return self.trainer.evaluation(confusions(self.module), EVALUATION_BATCH)

    def adapted(self, treatment: Treatment, bases: Any) -> tuple[Any, int]:
        """Leaves [M, ...], the bases with the treatment's adapters, padded; and how many numbers train of one member."""
        if treatment.rank is None:
            return bases, self._trainable(bases, treatment)
        config = dataclasses.replace(
            self.module.config, rank=treatment.rank, alpha=treatment.alpha, init_a=treatment.init_a
        )
        count = jax.tree.leaves(bases)[0].shape[0]
        members = [sweep.Member(treatment.rank, config.alpha, treatment.learning_rate, seed) for seed in range(count)]
        adapters = sweep.init_adapters(self.module.with_config(config), members, jnp.ones(IMAGE))
        trainable = self._trainable(lora_jax.combine(bases, adapters), treatment)
        return lora_jax.combine(bases, _padded(adapters, self.kind.rank)), trainable

    def _trainable(self, stacked: Any, treatment: Treatment) -> int:
        one = jax.tree.map(lambda leaf: leaf[0], stacked)
        return lora_jax.report(one, lora_jax.trainable_mask(stacked, train=treatment.train)).trainable

    def _cross_entropy(self) -> Callable:
        weights = self.kind.class_weights
        return cross_entropy(self.module, None if weights is None else jnp.asarray(weights, jnp.float32))

    def _optimizer(self, rate: jax.Array) -> optax.GradientTransformation:
        return optax.adamw(rate, weight_decay=self.kind.decay) if self.kind.decay else optax.adam(rate)


def _padded(adapters: Any, rank: int) -> Any:
    """Adapters [M, ...] at a larger rank, the rest zeros: the same update, and the same training."""
    leaves = flat(adapters)
    for path in [path for path in leaves if path.endswith("lora_a")]:
        other = path.removesuffix("lora_a") + "lora_b"
        leaves[path], leaves[other] = pad_rank(leaves[path], leaves[other], rank)
    return nested(leaves)
