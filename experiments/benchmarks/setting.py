"""What is measured: S3's LoRA training. MLP 784-512-256-128-10, dropout 0.2, batch 64, r = 16 on every layer, Adam."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

import lora_jax
from experiments.common.classification import cross_entropy
from lora_jax import training
from lora_jax.models.mlp import MLP

HIDDEN, DROPOUT, BATCH, RANK, RATE = (512, 256, 128), 0.2, 64, 16, 1e-3


class Rival(NamedTuple):
    """One way to fine-tune: its loss, optimiser, frozen tree and a fresh state."""

    loss: training.LossFn
    tx: optax.GradientTransformation
    frozen: dict
    trainable: dict

    def state(self) -> training.TrainState:
        return training.init_state(self.trainable, self.tx, jax.random.key(2))


def data(examples: int = 4096) -> dict[str, jax.Array]:
    """Noise in the shape of MNIST: speed does not depend on the pixels."""
    x = jax.random.normal(jax.random.key(0), (examples, 784))
    return {"x": x, "y": jax.random.randint(jax.random.key(1), (examples,), 0, 10)}


def base() -> dict:
    return MLP(HIDDEN, dropout=DROPOUT).init(jax.random.key(3), jnp.ones((1, 784)))["params"]


def wrapped(rank: int = RANK) -> lora_jax.LoRA:
    return lora_jax.LoRA(MLP(HIDDEN, dropout=DROPOUT), lora_jax.LoRAConfig(rank=rank, alpha=rank))


def lora(rank: int = RANK) -> Rival:
    model = wrapped(rank)
    params = lora_jax.adapt(jax.random.key(4), base(), model, jnp.ones((1, 784)))
    return _rival(model, params, lora_jax.trainable_mask(params))


def full() -> Rival:
    params = base()
    return _rival(MLP(HIDDEN, dropout=DROPOUT), params, lora_jax.trainable_mask(params, train="*"))


def _rival(model, params, mask) -> Rival:
    frozen, trainable = lora_jax.partition(params, mask)
    return Rival(cross_entropy(model), lora_jax.lora_optimizer(optax.adam(RATE), mask), frozen, trainable)


def order(steps: int) -> jax.Array:
    """Indices [S, B] into `data()`."""
    return jax.random.randint(jax.random.key(5), (steps, BATCH), 0, 4096, jnp.int32)
