"""S2, part I: a linear teacher. y = x W*, student x (W0 + s a b), W0 frozen.

The inputs are white (X^T X = N I), so the mean squared error of the student is ||W* - W0 - s a b||_F^2, and its
minimum over rank r is the Eckart-Young bound, the sum of sigma_i^2 over i > r of W* - W0.

Letters: D features in and out, M members, S steps.
"""

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
from experiments.common.statistics import estimate
from experiments.linear.settings import DECAY, RULES, D, Settings
from experiments.linear.settings import PRESETS as PRESETS
from lora_jax import lowrank, sweep

EARLY_STEPS = 100  # when the artifact of a fixed alpha is read, to the nearest block


def summary(folder: RunFolder, settings: Settings) -> dict[str, Any]:
    """Trains, checks that W0 never moved, and returns the rows of the summary."""
    memory.require(needed(settings), f"training {_count(settings):,} members at once", "give fewer --seeds or --ranks")
    result = run(folder, settings)
    chex.assert_trees_all_equal(*result["base"])
    per_block = settings.steps // settings.blocks
    early = min(settings.blocks, max(1, round(EARLY_STEPS / per_block)))
    return {
        "rows": [_row(result, rule, rank, early) for rule in RULES for rank in settings.ranks],
        "steps": settings.steps,
        "early_step": early * per_block,
        "curve_steps": [block * per_block for block in range(settings.blocks + 1)],
        "traces": result["traces"],
        "base_unchanged": True,
    }


def needed(settings: Settings) -> int:
    """Bytes, at least."""
    factors, kernel = 4 * 2 * D * max(settings.ranks), 4 * D * D
    return memory.of_training(_count(settings), factors, 2 * kernel)  # the teacher's and its own


def _count(settings: Settings) -> int:
    return len(RULES) * len(settings.ranks) * settings.seeds


def _row(result: dict[str, Any], rule: str, rank: int, early: int) -> dict[str, Any]:
    """Errors and error/bound of one rule and rank over the seeds."""
    pairs = enumerate(zip(result["rules"], result["members"], strict=True))
    where = [i for i, (r, member) in pairs if (r, member.rank) == (rule, rank)]
    errors, bounds = result["errors"][:, where], result["bounds"][where]
    ratios = errors / bounds  # [blocks + 1, seeds]
    return {
        "rule": rule,
        "rank": rank,
        "bound": estimate(bounds),
        "final_error": estimate(errors[-1]),
        "early_ratio": estimate(ratios[early]),
        "final_ratio": estimate(ratios[-1]),
        "worst_final_ratio": float(ratios[-1].max()),
        "curve": ratios.mean(axis=1).tolist(),
    }


def run(folder: RunFolder, settings: Settings) -> dict[str, Any]:
    """Trains ranks x rules x seeds in one program; errors [blocks + 1, M] and bounds [M]."""
    members, rules = _members(settings)
    model = lora_jax.LoRA(nn.Dense(D, use_bias=False), lora_jax.LoRAConfig(rank=1, scaling="constant"))
    start, target = _teachers(members)
    stacked = {**sweep.init_adapters(model, members, jnp.ones((1, D))), "kernel": start, "teacher": target}
    trainer = sweep.Sweep(_loss(model), _optimizer(settings.steps), settings.strategy, devices.mesh())
    state = trainer.start(
        stacked,
        {name: name in ("lora_a", "lora_b") for name in stacked},
        members=members,
    )
    order = jnp.broadcast_to(jnp.arange(D, dtype=jnp.int32), (settings.steps // settings.blocks, D))
    state, history = phases.train(
        folder, "linear_teacher", trainer, state, {}, {"x": _white_inputs()},
        order=lambda block: order, blocks=settings.blocks, follow=jax.jit(_errors),
    )  # fmt: skip
    base_now = {"kernel": state.own["kernel"], "teacher": state.own["teacher"]}
    return {
        "errors": np.stack([line["error"] for line in history]),  # [blocks + 1, M]
        "bounds": np.asarray(_bounds(start, target, np.asarray([member.rank for member in members]))),  # [M]
        "members": members,
        "rules": rules,
        "base": (base_now, {"kernel": start, "teacher": target}),
        "traces": phases.traces(history),
    }


def _members(settings: Settings) -> tuple[list[sweep.Member], list[str]]:
    """Under the "constant" rule a member's alpha is its scale."""
    members, rules = [], []
    for rule in RULES:
        for rank in settings.ranks:
            scale = settings.alpha if rule == RULES[0] else settings.alpha / rank
            members += sweep.grid(
                ranks=(rank,), alphas=(scale,), learning_rates=(settings.learning_rate,), seeds=range(settings.seeds)
            )
            rules += [rule] * settings.seeds
    return members, rules


def _teachers(members: list[sweep.Member]) -> tuple[jax.Array, jax.Array]:
    """W0 and W* [M, D, D], one pair per seed."""

    @jax.jit
    @jax.vmap
    def draw(seed):
        base_key, left_key, right_key = jax.random.split(jax.random.key(seed), 3)
        return jax.random.normal(base_key, (D, D)) / jnp.sqrt(D), _rotation(left_key), _rotation(right_key)

    start, left, right = draw(np.asarray([1000 + member.seed for member in members], np.uint32))
    return start, start + (left * DECAY ** jnp.arange(D)[None, None]) @ right


@jax.custom_batching.sequential_vmap  # for the reason that lora_jax.decompositions gives
def _rotation(key: jax.Array) -> jax.Array:
    """An orthogonal matrix [D, D]."""
    return jax.random.orthogonal(key, D)


@jax.jit
def _white_inputs() -> jax.Array:
    """X [D, D] with X^T X = D I."""
    return jnp.sqrt(float(D)) * _rotation(jax.random.key(7))


def _loss(model: nn.Module):
    def loss_fn(params, batch, key):
        student = {name: leaf for name, leaf in params.items() if name != "teacher"}
        y = model.apply({"params": student}, batch["x"])
        return ((y - batch["x"] @ params["teacher"]) ** 2).sum(axis=-1).mean(), {}

    return loss_fn


def _optimizer(steps: int):
    """Adam, its rate falling to zero along a cosine, so that it converges instead of jittering."""
    return lambda rate: optax.adam(lambda step: rate * optax.cosine_decay_schedule(1.0, steps)(step))


def _errors(state: sweep.SweepState) -> dict[str, jax.Array]:
    """||W* - merged||_F^2 [M]."""
    merged = jax.vmap(lora_jax.merge)({**state.own, **state.train.trainable})
    return {"error": ((merged["kernel"] - merged["teacher"]) ** 2).sum(axis=(-1, -2))}


@jax.jit
def _bounds(start: jax.Array, target: jax.Array, ranks: jax.Array) -> jax.Array:
    tails = jax.vmap(lowrank.best_error)(target - start)  # [M, D + 1]
    return tails[jnp.arange(len(ranks)), ranks]
