"""What groups of members have in common, whatever they learn: shared out to devices, started, warmed up, counted."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

import lora_jax
from lora_jax import sweep
from lora_jax.tree import flat


def start(
    trainer: sweep.Sweep, stacked: dict[str, Any], train: tuple[str, ...], members: list[sweep.Member]
) -> sweep.SweepState:
    """The state before the first step; `train` names what trains beside adapters."""
    return trainer.start(
        stacked,
        lora_jax.trainable_mask(stacked, train=train),
        members=members,
    )


def adamw(steps: int, *, warm_up: float, weight_decay: float, decays: bool = True, clip: float | None = None):
    """rate -> AdamW with decoupled weight decay: 0 to rate over a share `warm_up` of the steps, then linearly to 0, or constant.

    `clip` bounds the norm of all gradients together: Adam divides by a mean of squares that a few large ones of the first steps would fill.
    """
    warm = max(1, round(warm_up * steps))

    def optimizer(rate: jax.Array) -> optax.GradientTransformation:
        def schedule(count):
            falling = (steps - count) / max(1, steps - warm) if decays else 1.0
            return rate * jnp.minimum((count + 1) / warm, falling)

        adam = optax.adamw(schedule, weight_decay=weight_decay)
        return adam if clip is None else optax.chain(optax.clip_by_global_norm(clip), adam)

    return optimizer


def parameters(state: sweep.SweepState, members: list[sweep.Member]) -> list[int]:
    """Trainable parameters per member; adapters as if they had not been padded."""
    leaves = flat(state.train.trainable)
    width = max((leaf.shape[-1] for path, leaf in leaves.items() if path.endswith("lora_a")), default=1)
    sizes = {path: leaf[0].size for path, leaf in leaves.items()}
    of_adapters = {path: size for path, size in sizes.items() if path.rpartition("/")[2].startswith("lora_")}
    other = sum(sizes.values()) - sum(of_adapters.values())
    adapter = sum(size // width for size in of_adapters.values())
    return [other + adapter * member.rank for member in members]
