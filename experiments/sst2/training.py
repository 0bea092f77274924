"""Fine-tuning a BERT classifier on sentences in length buckets: a group of members that differ in numbers only.

One program per bucket shape trains all members of a group. Letters: M members, S steps, B batch, T tokens, D width.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lora_jax
from experiments.common import devices, groups, phases
from experiments.common.recording import RunFolder
from experiments.data.buckets import Bucket, piece_counts, pieces
from experiments.sst2.settings import REGIMES as REGIMES
from experiments.sst2.settings import TARGETS, Recipe
from lora_jax import sweep
from lora_jax.models import bert
from lora_jax.tree import flat, nested

HEAD = ("bert/pooler", "classifier")
STEPS = 10  # batches of one bucket in a row, one call of the compiled program
EVALUATION_BATCH = 109  # 872 validation sentences fall into few, nearly whole batches per bucket


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """What a group is trained on and measured by. `base` is the whole tree of the classifier, head included.

    `train` and `score` are buckets {"x" int32 [N, T] (or features [N, D]), "y" int32 [N]}; tuning or validation to score. With `items`, so
    many sentences in all of `score`, whose buckets then say which each is ("row" int32 [N]), it is kept which of them are right.
    """

    model: bert.BertForSequenceClassification
    base: dict[str, Any]
    train: list[dict[str, jax.Array]]
    score: list[dict[str, jax.Array]]
    features: bool = False  # x are features of the frozen encoder, and only the head is applied
    items: int | None = None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Of a group: `accuracy` [blocks + 1, M] as training went on, the one before it first; `loss` [blocks, M].

    `right` bool [blocks + 1, M, I] is which sentences were, where the task keeps that.
    """

    regime: str
    members: list[sweep.Member]
    accuracy: np.ndarray
    loss: np.ndarray
    parameters: list[int]  # trainable, per member, without padding
    traces: int  # compiled programs
    state: sweep.SweepState
    shared: dict[str, Any]
    per_epoch: int  # blocks
    right: np.ndarray | None = None


def on_device(buckets: Sequence[Bucket], *, rows: bool = False) -> list[dict[str, jax.Array]]:
    """The buckets as losses and metrics want them; with `rows`, each sentence's position among all."""
    found = [{"x": jnp.asarray(b.input_ids), "y": jnp.asarray(b.labels, jnp.int32)} for b in buckets]
    return (
        [{**each, "row": jnp.asarray(b.rows, jnp.int32)} for each, b in zip(found, buckets, strict=True)]
        if rows
        else found
    )


def features(
    model: bert.BertForSequenceClassification, params: dict, buckets: list[dict[str, jax.Array]]
) -> list[dict]:
    """The buckets with what the frozen encoder gives the head instead of tokens, {"x" [N, D], "y" [N]}: same batches."""

    @jax.jit
    def of_batch(params, ids):
        return model.apply({"params": params}, ids, ids != 0, method="features")

    found = []
    for bucket in buckets:
        size = max(1, 8192 // bucket["x"].shape[1])
        padded = jnp.pad(bucket["x"], ((0, -len(bucket["x"]) % size), (0, 0)), constant_values=1)
        parts = [of_batch(params, padded[i : i + size]) for i in range(0, len(padded), size)]
        found.append({**bucket, "x": jnp.concatenate(parts)[: len(bucket["y"])]})
    return found


def train_group(
    folder: RunFolder,
    phase: str,
    task: Task,
    regime: str,
    members: list[sweep.Member],
    recipe: Recipe,
    strategy: str = "auto",
) -> Outcome:
    """Trains the members together, each on its own seed's batches; scored `blocks_per_epoch` times an epoch.

    Args:
      members: alpha is the scale c of the update; rank 0 for a regime without adapters.
    """
    n = len(members)
    members = sweep.even(members, devices.mesh())
    adapted, stacked, shared, train = members_of(task, regime, members)
    sizes = [len(bucket["y"]) for bucket in task.train]
    calls = recipe.epochs * sum(piece_counts(sizes, recipe.batch_size, STEPS))
    optimizer = groups.adamw(calls * STEPS, warm_up=recipe.warm_up, weight_decay=recipe.weight_decay)
    trainer = sweep.Sweep(_loss(adapted, task), optimizer, strategy, devices.mesh())
    state = groups.start(trainer, stacked, train, members)
    evaluate = trainer.evaluation(_correct(adapted, task), EVALUATION_BATCH)
    examples = sum(len(bucket["y"]) for bucket in task.score)
    per_epoch = min(recipe.blocks_per_epoch, sum(piece_counts(sizes, recipe.batch_size, STEPS)))
    recipe = dataclasses.replace(recipe, blocks_per_epoch=per_epoch)  # no block is empty
    blocks = recipe.epochs * per_epoch

    def follow(state):
        right = sum(evaluate(state, shared, bucket)["correct"] for bucket in scored)[:n]
        if task.items is None:
            return {"accuracy": right / examples}
        return {"accuracy": right.sum(axis=-1) / examples, "right": jnp.packbits(right.astype(bool), axis=-1)}

    shared, train_data, scored = (trainer.share(tree, state) for tree in (shared, list(task.train), list(task.score)))
    advance = _advance(trainer, shared, train_data, members, recipe, n)
    state, history = phases.train_blocks(folder, phase, state, shared, advance, blocks=blocks, follow=follow, members=n)
    return Outcome(
        regime=regime,
        members=members[:n],
        accuracy=np.stack([line["accuracy"] for line in history]),
        loss=np.stack([line["loss"] for line in history[1:]]),
        parameters=groups.parameters(state, members[:n]),
        traces=phases.traces(history),
        state=state,
        shared=shared,
        per_epoch=per_epoch,
        right=_unpacked(history, task.items),
    )


def _unpacked(history: list[dict[str, np.ndarray]], items: int | None) -> np.ndarray | None:
    if items is None:
        return None
    return np.unpackbits(np.stack([line["right"] for line in history]).astype(np.uint8), axis=-1, count=items).astype(
        bool
    )


def _advance(trainer, shared, buckets: list[dict[str, jax.Array]], members, recipe: Recipe, n: int):
    """(state, block) -> (state, mean loss of the first n members): the block's share of its epoch's pieces."""
    sizes = [len(bucket["y"]) for bucket in buckets]
    seeds = sorted({member.seed for member in members})
    own = np.asarray([seeds.index(member.seed) for member in members])

    def advance(state, block: int):
        epoch, part = divmod(block, recipe.blocks_per_epoch)
        calls = pieces(seeds, epoch, sizes, recipe.batch_size, STEPS)
        ends = np.linspace(0, len(calls), recipe.blocks_per_epoch + 1).astype(int)
        losses = []
        for bucket, rows in calls[ends[part] : ends[part + 1]]:
            order = rows[0] if len(seeds) == 1 else rows[own]
            state, (loss, _) = trainer.run(state, shared, buckets[bucket], trainer.share(jnp.asarray(order), state))
            losses.append(loss.mean(axis=1)[:n])
        return state, {"loss": jnp.stack(losses).mean(axis=0), "traces": len(trainer.traces)}

    return advance


def _loss(adapted, task: Task):
    def loss_fn(params, batch, key):
        logits = _logits(adapted, task, params, batch["x"], train=True, rngs={"dropout": key})
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean(), {}

    return loss_fn


def _correct(adapted, task: Task):
    """1 for each that is right; with `items`, at its place among all of them, so that a sum over batches says which are."""

    def metric_fn(params, batch):
        right = (_logits(adapted, task, params, batch["x"]).argmax(axis=-1) == batch["y"]).astype(jnp.int32)
        if task.items is None:
            return {"correct": right}
        return {"correct": right[:, None] * jax.nn.one_hot(batch["row"], task.items, dtype=jnp.int32)}

    return metric_fn


def _logits(adapted, task: Task, params, x, **kwargs):
    if task.features:
        return adapted.apply({"params": params}, x, method="from_features", **kwargs)
    return adapted.apply({"params": params}, x, x != 0, **kwargs)


def members_of(task: Task, regime: str, members: list[sweep.Member]):
    """(module to apply, stacked leaves, shared leaves, what trains beside adapters).

    Every member's head starts from its own seed, whatever the regime; so does all of a member from scratch.
    """
    seeds = [member.seed for member in members]
    if regime in ("full", "from scratch"):
        trees = sweep.broadcast(task.base, len(members)) if regime == "full" else _fresh(task, seeds)
        return task.model, nested({**flat(trees), **_fresh_classifiers(task, seeds)}), {}, ("*",)
    head = {path: leaf for path, leaf in flat(task.base).items() if path.startswith(HEAD)}
    shared = nested({path: leaf for path, leaf in flat(task.base).items() if path not in head})
    stacked = {**flat(sweep.broadcast(nested(head), len(members))), **_fresh_classifiers(task, seeds)}
    if regime == "head only":
        return task.model, nested(stacked), shared, HEAD
    adapted = lora_jax.LoRA(
        task.model, lora_jax.LoRAConfig(rank=1, scaling="constant", alpha=1.0, targets=TARGETS[regime])
    )
    adapters = sweep.init_adapters(adapted, members, jnp.ones((1, 8), jnp.int32))
    return adapted, nested({**flat(adapters), **stacked}), shared, HEAD


def _fresh(task: Task, seeds: list[int]) -> dict[str, Any]:
    """Parameters [M, ...] drawn anew."""
    draw = jax.jit(
        lambda keys: jax.lax.map(lambda key: task.model.init(key, jnp.ones((1, 8), jnp.int32))["params"], keys)
    )
    return draw(jax.vmap(jax.random.key)(jnp.asarray(seeds, jnp.uint32)))


def _fresh_classifiers(task: Task, seeds: list[int]) -> dict[str, jax.Array]:
    """The output layer [M, ...], as `_fresh` would draw it, so that regimes of a seed start with the same one."""
    shape = task.base["classifier"]["kernel"].shape
    draw = jax.vmap(lambda seed: bert.INIT(jax.random.fold_in(jax.random.key(seed), 0x68656164), shape))
    return {
        "classifier/kernel": draw(jnp.asarray(seeds, jnp.uint32)),
        "classifier/bias": jnp.zeros((len(seeds), shape[1])),
    }
