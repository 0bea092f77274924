"""Fine-tuning a language model on answers: a group of members that differ in numbers only, measured and judged as they learn.

Letters: M members, N rows, S steps, B batch, T tokens, P scored places of a row.
"""

import dataclasses
import time
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import lora_jax
from experiments.common import devices, groups, phases, scored_tokens
from experiments.common.projections import LINEAR
from experiments.common.recording import RunFolder
from experiments.lm import judge as lm_judge
from lora_jax import sweep, training
from lora_jax.models.causal_lm import CausalLM
from lora_jax.tree import flat, nested

HEAD = ("model/embed_tokens", "lm_head")
REGIMES = ("LoRA", "full", "head")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """AdamW; linear warm-up over a share of the steps, then linear decay to 0, or constant."""

    epochs: int
    batch_size: int  # rows
    warm_up: float = 0.03
    weight_decay: float = 0.0
    decays: bool = True
    judged: tuple[int, ...] = ()  # after these epochs; always after the last
    follow_every: int = 5  # epochs at most between two measurements of losses, which are also saves


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """`base` is the whole tree; `train` as `packing.gathered` gives it; `follow` name -> the same, to be measured on.

    With a `judge` every member is also asked after the recipe's epochs; before training it is the base.
    """

    model: CausalLM
    base: dict[str, Any]
    train: dict[str, jax.Array]
    follow: dict[str, dict[str, jax.Array]]
    judge: lm_judge.Judge | None = None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Of a group: `losses` name -> [measurements, M], before training first; `epochs` when they were taken.

    `judged` has one line per measurement but the first: "discrimination" [M] and "outputs" str [M, N] at the recipe's epochs,
    where there is a judge; else it is empty.
    """

    members: list[sweep.Member]
    epochs: list[int]
    losses: dict[str, np.ndarray]
    train_loss: np.ndarray  # [blocks, M]
    judged: list[dict[str, np.ndarray]]
    steps_per_epoch: int
    seconds_per_step: float  # of one member, while the others train beside it; median over epochs, compilation left out
    peak_bytes: int  # of the program that trains the group, by XLA's own analysis: arguments, results, temporaries
    parameters: list[int]
    traces: int
    model: nn.Module  # what was applied: the base's model, or a LoRA around it
    state: sweep.SweepState
    shared: dict[str, Any]


def train_group(
    folder: RunFolder,
    phase: str,
    task: Task,
    regime: str,
    members: list[sweep.Member],
    recipe: Recipe,
    *,
    targets: tuple[str, ...] = LINEAR,
    strategy: str = "sequential",
) -> Outcome:
    """Trains the members together, each on its own seed's order of the rows; measured and judged as the recipe says."""
    n = len(members)
    padded = sweep.even(members, devices.mesh())
    model, stacked, shared, train = members_of(task, regime, padded, targets)
    per_epoch = len(task.train["ids"]) // recipe.batch_size
    optimizer = groups.adamw(
        recipe.epochs * per_epoch, warm_up=recipe.warm_up, weight_decay=recipe.weight_decay, decays=recipe.decays
    )
    trainer = sweep.Sweep(scored_tokens.gathered(model), optimizer, strategy, devices.mesh())
    state = groups.start(trainer, stacked, train, padded)
    measure = trainer.evaluation(_sums(model), recipe.batch_size)
    ends, asked = _ends(recipe)
    knows = None if task.judge is None else trainer.evaluation(lm_judge.knows(model), lm_judge.AT_ONCE)
    everywhere = trainer.share(shared, state), trainer.share(task.train, state)
    followed = trainer.share(task.follow, state)
    peak: list[int] = []

    def advance(state, block: int):
        losses, seconds = [], []
        for epoch in range(0 if block == 0 else ends[block - 1], ends[block]):
            order = _orders([member.seed for member in padded], epoch, len(task.train["ids"]), recipe.batch_size)
            arguments = *everywhere, trainer.share(jnp.asarray(order), state)
            if not peak:  # compiles; the calls below find the program
                peak.append(_peak_bytes(trainer.run.lower(state, *arguments).compile().memory_analysis()))
            started = time.perf_counter()
            state, (loss, _) = trainer.run(state, *arguments)
            losses.append(jax.block_until_ready(loss.mean(axis=1)[:n]))
            seconds.append(time.perf_counter() - started)
        values = {"loss": jnp.stack(losses).mean(axis=0), "seconds": np.asarray(seconds), "peak_bytes": peak[0]}
        values["traces"] = len(trainer.traces)
        if knows is not None and ends[block] in asked:
            values["discrimination"] = task.judge.discrimination(knows, state, shared)[:n]
            trees = [sweep.member_params(state, shared, index) for index in range(n)]
            values["outputs"] = task.judge.outputs(trees, None if regime != "LoRA" else model)
        return state, values

    def follow(state):
        sums = {name: measure(state, everywhere[0], data) for name, data in followed.items()}
        return {name: (of["total"] / of["count"])[:n] for name, of in sums.items()}

    state, history = phases.train_blocks(
        folder, phase, state, shared, advance, blocks=len(ends), follow=follow, members=n
    )
    seconds = np.concatenate([line["seconds"] for line in history[1:]])
    return Outcome(
        members=members,
        epochs=[0, *ends],
        losses={name: np.stack([line[name] for line in history]) for name in task.follow},
        train_loss=np.stack([line["loss"] for line in history[1:]]),
        judged=[{name: line[name] for name in ("discrimination", "outputs") if name in line} for line in history[1:]],
        steps_per_epoch=per_epoch,
        seconds_per_step=float(np.median(seconds)) / per_epoch / len(padded),
        peak_bytes=int(history[-1]["peak_bytes"]),
        parameters=groups.parameters(state, members),
        traces=phases.traces(history),
        model=model,
        state=state,
        shared=shared,
    )


def _ends(recipe: Recipe) -> tuple[list[int], set[int]]:
    """(after which epochs a block of training ends, and is measured and saved; after which of them the judge asks)."""
    asked = {*(epoch for epoch in recipe.judged if epoch < recipe.epochs), recipe.epochs}
    return sorted({*range(recipe.follow_every, recipe.epochs, recipe.follow_every), *asked}), asked


def _peak_bytes(stats) -> int:
    """Of a program: what it is given, what it returns in memory of its own, and what it needs between."""
    own = stats.output_size_in_bytes - stats.alias_size_in_bytes
    return stats.argument_size_in_bytes + own + stats.temp_size_in_bytes


def losses_of(
    model, params: dict[str, Any], follow: dict[str, dict[str, jax.Array]], batch_size: int
) -> dict[str, float]:
    """Nats a token on each of the sets, of one model by itself."""
    measure = jax.jit(training.make_evaluation(_sums(model), batch_size))
    sums = {name: measure(params, data) for name, data in follow.items()}
    return {name: float(of["total"] / of["count"]) for name, of in sums.items()}


def _orders(seeds: list[int], epoch: int, size: int, batch_size: int) -> np.ndarray:
    """int32 [M, S, B]: each member's order is its seed's; the incomplete last batch is left out of this epoch."""
    steps = size // batch_size
    orders = [np.random.default_rng((seed, epoch)).permutation(size)[: steps * batch_size] for seed in seeds]
    return np.stack(orders).astype(np.int32).reshape(len(seeds), steps, batch_size)


def _sums(model):
    """Per row: nats and number of its scored tokens."""
    loss_fn = scored_tokens.gathered(model)

    def metric_fn(params, batch):
        def row(one):
            total, count = loss_fn(params, jax.tree.map(lambda leaf: leaf[None], one), None)[1]
            return {"total": total, "count": count}

        return jax.lax.map(row, batch)

    return metric_fn


def members_of(task: Task, regime: str, members: list[sweep.Member], targets: tuple[str, ...]):
    """(module to apply, stacked leaves, shared leaves, what trains beside adapters)."""
    if regime == "full":
        return task.model, sweep.broadcast(task.base, len(members)), {}, ("*",)
    if regime == "head":
        head = {path: leaf for path, leaf in flat(task.base).items() if path.startswith(HEAD)}
        shared = nested({path: leaf for path, leaf in flat(task.base).items() if path not in head})
        return task.model, sweep.broadcast(nested(head), len(members)), shared, ("*",)
    config = lora_jax.LoRAConfig(rank=1, scaling="constant", alpha=1.0, targets=targets)
    adapted = lora_jax.LoRA(task.model, config)
    return adapted, sweep.init_adapters(adapted, members, jnp.ones((1, 8), jnp.int32)), task.base, ()
