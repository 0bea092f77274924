"""S3's LoRA training: MLP 784-512-256-128-10, dropout 0.2, batch 64, r = 16 on every layer, Adam.

`Rival` and `order` serve every setting. Letters: N examples, S steps, B batch.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

import lora_jax
from experiments.common.classification import cross_entropy
from lora_jax import training
from lora_jax.models.mlp import MLP

HIDDEN, DROPOUT, BATCH, RANK, RATE = (512, 256, 128), 0.2, 64, 16, 1e-3
EXAMPLES = 4096


class Rival(NamedTuple):
    """One way to fine-tune: its loss, optimiser, frozen tree, what trains, and its data [N, ...] in batches."""

    loss: training.LossFn
    tx: optax.GradientTransformation
    frozen: dict
    trainable: dict
    data: dict[str, jax.Array]
    batch: int

    def state(self) -> training.TrainState:
        """A fresh one."""
        return training.init_state(self.trainable, self.tx, jax.random.key(2))

    def order(self, steps: int) -> jax.Array:
        """Indices [S, B] into the data."""
        return order((steps, self.batch), len(jax.tree.leaves(self.data)[0]))


def adapted(model, params: dict, x: jax.Array, seed: int = 4) -> dict:
    """`lora_jax.adapt` in one program: by itself each leaf would be some, and a start takes seconds."""
    return jax.jit(lambda key, params: lora_jax.adapt(key, params, model, x))(jax.random.key(seed), params)


def rival(loss: training.LossFn, optimizer: optax.GradientTransformation, params: dict, mask: dict, data, batch: int):
    """The rival that trains what `mask` marks of `params`."""
    frozen, trainable = lora_jax.partition(params, mask)
    return Rival(loss, lora_jax.lora_optimizer(optimizer, mask), frozen, trainable, data, batch)


def order(shape: tuple[int, ...], examples: int) -> jax.Array:
    """Indices of that shape into the examples, drawn with replacement."""
    return jax.random.randint(jax.random.key(5), shape, 0, examples, jnp.int32)


def data() -> dict[str, jax.Array]:
    """Noise in the shape of MNIST: speed does not depend on the pixels."""
    x = jax.random.normal(jax.random.key(0), (EXAMPLES, 784))
    return {"x": x, "y": jax.random.randint(jax.random.key(1), (EXAMPLES,), 0, 10)}


def base() -> dict:
    return jax.jit(MLP(HIDDEN, dropout=DROPOUT).init)(jax.random.key(3), jnp.ones((1, 784)))["params"]


def wrapped(rank: int = RANK) -> lora_jax.LoRA:
    return lora_jax.LoRA(MLP(HIDDEN, dropout=DROPOUT), lora_jax.LoRAConfig(rank=rank, alpha=rank))


def lora(rank: int = RANK) -> Rival:
    model = wrapped(rank)
    params = adapted(model, base(), jnp.ones((1, 784)))
    return _rival(model, params, lora_jax.trainable_mask(params))


def full() -> Rival:
    params = base()
    return _rival(MLP(HIDDEN, dropout=DROPOUT), params, lora_jax.trainable_mask(params, train="*"))


def _rival(model, params, mask) -> Rival:
    return rival(cross_entropy(model), optax.adam(RATE), params, mask, data(), BATCH)
