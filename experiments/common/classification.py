"""Losses, per-class errors and per-item outcomes of classifiers. Letters: B batch, C classes, I items, M members."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from lora_jax import sweep

CLASSES = 10


def cross_entropy(model: nn.Module) -> Callable:
    """The mean cross-entropy of `batch = {"x" [B, D], "y" [B]}`, dropout on, as `lora_jax.training` wants it."""

    def loss_fn(params: Any, batch: Any, key: jax.Array):
        logits = model.apply({"params": params}, batch["x"], train=True, rngs={"dropout": key})
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean(), {}

    return loss_fn


def focal_loss(model: nn.Module, gamma: float = 2.0) -> Callable:
    """(1 - p)^gamma times the cross-entropy. Lin et al. 2017 (arXiv:1708.02002), equation 4."""

    def loss_fn(params: Any, batch: Any, key: jax.Array):
        logits = model.apply({"params": params}, batch["x"], train=True, rngs={"dropout": key})
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"])
        return ((1 - jnp.exp(-losses)) ** gamma * losses).mean(), {}

    return loss_fn


def errors_by_class(model: nn.Module) -> Callable:
    """Per-example metrics [B, C]: `errors` has a one where an example of that class is misclassified."""

    def metric_fn(params: Any, batch: Any):
        logits = model.apply({"params": params}, batch["x"])
        wrong = logits.argmax(axis=-1) != batch["y"]
        return {"errors": jax.nn.one_hot(batch["y"], logits.shape[-1], dtype=jnp.int32) * wrong[:, None]}

    return metric_fn


def by_item(trainer: sweep.Sweep, value_fn: Callable, batch_size: int = 1000) -> Callable:
    """`of(state, shared, data) -> [M, I, ...]`: what `value_fn(params, batch)` [B, ...] says of each item of `data`, member by member.

    A sweep's evaluation sums over examples; here an example is a whole batch, so that its sum is the batch itself.
    """

    def of_batches(params: Any, batches: Any):
        return value_fn(params, jax.tree.map(lambda leaf: leaf[0], batches))[None]

    evaluate = trainer.evaluation(of_batches, 1)

    def of(state: sweep.SweepState, shared: Any, data: Any) -> np.ndarray:
        starts = range(0, jax.tree.leaves(data)[0].shape[0], batch_size)
        batches = [jax.tree.map(lambda leaf, at=at: leaf[None, at : at + batch_size], data) for at in starts]
        return np.concatenate([np.asarray(evaluate(state, shared, batch)) for batch in batches], axis=1)

    return of


def right(model: nn.Module) -> Callable:
    """Per-example values [B]: 1 where the model says an example's class, for `by_item`."""

    def value_fn(params: Any, batch: Any):
        return (model.apply({"params": params}, batch["x"]).argmax(axis=-1) == batch["y"]).astype(jnp.int32)

    return value_fn


def class_counts(labels: np.ndarray, classes: int = CLASSES) -> np.ndarray:
    """[C] examples per class."""
    return np.bincount(labels, minlength=classes)


def accuracy(errors: np.ndarray, counts: np.ndarray, digits: tuple[int, ...] | None = None) -> np.ndarray:
    """Share right among the examples of `digits`, by default all; `errors` [..., C], result [...]."""
    chosen = list(range(len(counts)) if digits is None else digits)
    return 1 - errors[..., chosen].sum(axis=-1) / counts[chosen].sum()
