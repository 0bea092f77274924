"""Base models trained in full, one per seed, in one program; saved, and read again by whoever needs them."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.common import devices, phases
from experiments.common.classification import cross_entropy, errors_by_class
from experiments.common.recording import RunFolder
from lora_jax import sweep, training
from lora_jax.partition import trainable_mask

EVALUATION_BATCH = 1000


def train_bases(
    folder: RunFolder,
    model: nn.Module,
    data: dict[str, jax.Array],
    test: dict[str, jax.Array],
    *,
    seeds: int,
    epochs: int,
    batch_size: int,
    learning_rate: float = 1e-3,
    blocks_per_epoch: int = 1,
    strategy: str = "auto",
    phase: str = "pretrain",
) -> tuple[Any, list[dict[str, np.ndarray]]]:
    """Trains `seeds` models with Adam; parameters stacked [M, ...], and the history of per-class test errors [M, C]."""
    keys = jax.vmap(jax.random.key)(jnp.arange(seeds, dtype=jnp.uint32))
    stacked = jax.jit(jax.vmap(lambda key: model.init(key, data["x"][:1])["params"]))(keys)
    trainer = sweep.Sweep(cross_entropy(model), optax.adam, strategy, devices.mesh())
    mask = trainable_mask(stacked, train="*")
    state = trainer.start(stacked, mask, learning_rates=[learning_rate] * seeds, seeds=range(seeds), padded=False)
    evaluate = trainer.evaluation(errors_by_class(model), EVALUATION_BATCH)
    order = epoch_blocks(seeds, len(data["y"]), batch_size, blocks_per_epoch)
    state, history = phases.train(
        folder, phase, trainer, state, {}, data,
        order=order, blocks=epochs * blocks_per_epoch, follow=lambda state: evaluate(state, {}, test),
    )  # fmt: skip
    return state.train.trainable, history


def order_key(seed: jax.Array) -> jax.Array:
    """The stream of batches of a seed, apart from the streams that draw its parameters and dropout masks."""
    return jax.random.fold_in(jax.random.key(seed), 0x6F72646)


def epoch_blocks(seeds: int, size: int, batch_size: int, blocks_per_epoch: int):
    """block -> [M, S, B]: each member's own shuffled epochs, cut into blocks."""
    shuffle = jax.jit(
        jax.vmap(lambda seed, epoch: training.epoch_order(order_key(seed), epoch, size, batch_size), (0, None))
    )

    def order(block: int) -> jax.Array:
        epoch, part = divmod(block, blocks_per_epoch)
        whole = shuffle(jnp.arange(seeds, dtype=jnp.uint32), epoch)  # [M, steps, B]
        steps = whole.shape[1] // blocks_per_epoch
        return whole[:, part * steps : (part + 1) * steps]

    return order
