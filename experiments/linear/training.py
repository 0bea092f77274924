"""Adapters on frozen linear layers, every member with inputs of its own, all in one program."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import lora_jax
from experiments.common import devices, memory, phases
from experiments.common.recording import RunFolder
from experiments.linear.settings import D
from lora_jax import sweep

GIVEN = (
    "x",
    "y",
    "target",
)  # a member's inputs, labels, and the matrix that its student should be; beside the student's own leaves


class Chain(nn.Module):
    """x W_1 ... W_L, all [D, D]."""

    depth: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i in range(self.depth):
            x = nn.Dense(D, use_bias=False, name=f"layer_{i}")(x)
        return x


@dataclasses.dataclass(frozen=True)
class Trained:
    """After 0, 1, ... blocks: errors on the training inputs [blocks + 1, M], and ||student - target||_F^2 [blocks + 1, M]."""

    errors: np.ndarray
    matrix_errors: np.ndarray
    traces: int


def cosine(steps: int):
    """rate -> Adam, its rate falling to zero along a cosine, so that it converges instead of jittering."""
    return lambda rate: optax.adam(lambda step: rate * optax.cosine_decay_schedule(1.0, steps)(step))


def train(
    folder: RunFolder,
    phase: str,
    members: Sequence[sweep.Member],
    layers: np.ndarray,
    given: dict[str, np.ndarray],
    *,
    optimizer: Any,
    steps: int,
    blocks: int,
    strategy: str,
) -> Trained:
    """Trains every member's adapters, and makes sure that nothing else moved.

    Args:
      members: M; under the "constant" rule that is used a member's alpha is its scale.
      layers: frozen [M, L, D, D].
      given: `GIVEN`, each [M, D, D].
    """
    depth = layers.shape[1]
    model = lora_jax.LoRA(Chain(depth), lora_jax.LoRAConfig(rank=1, scaling="constant"))
    frozen = {name: jnp.asarray(given[name], jnp.float32) for name in GIVEN}
    frozen |= {f"layer_{i}": {"kernel": jnp.asarray(layers[:, i], jnp.float32)} for i in range(depth)}
    stacked = lora_jax.combine(sweep.init_adapters(model, members, jnp.ones((1, D))), frozen)
    trainer = sweep.Sweep(_loss(model), optimizer, strategy, devices.mesh())
    state = trainer.start(stacked, lora_jax.trainable_mask(stacked), members=members)
    before = _on_host(state.own)
    order = jnp.zeros((steps // blocks, 1), jnp.int32)  # every step takes all of a member's own inputs
    state, history = phases.train(
        folder, phase, trainer, state, {}, {"row": jnp.zeros(1)}, order=lambda block: order, blocks=blocks,
        follow=jax.jit(_errors(model)),
    )  # fmt: skip
    chex.assert_trees_all_equal(_on_host(state.own), before)
    errors, matrix_errors = (np.stack([line[name] for line in history]) for name in ("error", "matrix_error"))
    return Trained(errors, matrix_errors, phases.traces(history))


def needed(members: int, rank: int, depth: int = 1) -> int:
    """Bytes, at least, of so many members of this rank or less."""
    return memory.of_training(members, 4 * 2 * D * rank * depth, 4 * D * D * (depth + len(GIVEN)))


def _on_host(tree: Any) -> Any:
    return jax.tree.map(np.asarray, sweep.first(tree, len(jax.tree.leaves(tree)[0])))


def _student(model: nn.Module, params: dict[str, Any], x: jax.Array) -> jax.Array:
    return model.apply({"params": {name: leaf for name, leaf in params.items() if name not in GIVEN}}, x)


def _loss(model: nn.Module):
    def loss_fn(params, batch, key):
        return ((_student(model, params, params["x"]) - params["y"]) ** 2).sum() / D, {}

    return loss_fn


def _errors(model: nn.Module):
    """state -> {"error", "matrix_error"} [M]."""

    def one(params):
        matrix = _student(model, params, jnp.eye(D))
        return {
            "error": ((params["x"] @ matrix - params["y"]) ** 2).sum() / D,
            "matrix_error": ((matrix - params["target"]) ** 2).sum(),
        }

    return lambda state: jax.vmap(one)(lora_jax.combine(state.own, state.train.trainable))
