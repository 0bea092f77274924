"""Members of one kind trained from their bases by one compiled program, and scored item by item.

Letters: M members, S steps, B rows of a batch, T tokens, P scored places of a row, K the most items of a row, I items.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.common import devices, groups, phases, scored_tokens
from experiments.common.errors import UserError
from experiments.common.recording import RunFolder
from experiments.following import arms
from experiments.following.arms import Kind
from experiments.following.parts import Part
from lora_jax import sweep
from lora_jax.models.causal_lm import CausalLM

CLIP = 1.0  # norm of a step's gradients


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Batches of `batch` rows, measured after each of the steps `ends`, the last of which ends training; items are judged after `judged` of them,
    by default after the last."""

    ends: tuple[int, ...]
    batch: int
    judged: tuple[int, ...] = ()

    @property
    def steps(self) -> int:
        return self.ends[-1]

    @property
    def asked(self) -> tuple[int, ...]:
        """The ends at which items are judged."""
        return self.judged or self.ends[-1:]

    @property
    def chunk(self) -> int:
        """Steps of a call of the compiled program: one size serves all."""
        return math.gcd(*self.ends)

    @classmethod
    def even(cls, steps: int, batch: int, blocks: int = 8, *, judged_always: bool = False) -> "Recipe":
        """Measured after each of equal blocks, at most one a step.

        >>> Recipe.even(80, 4, 4).ends
        (20, 40, 60, 80)
        """
        blocks = min(blocks, steps)
        ends = tuple(steps * (block + 1) // blocks for block in range(blocks))
        return cls(ends, batch, ends if judged_always else ())


@dataclasses.dataclass(frozen=True, eq=False)
class Scored:
    """Of every item: nats of its answer, how many tokens that is, and whether each of them is the likeliest: [M, I] all."""

    nats: np.ndarray
    tokens: np.ndarray
    right: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """`curves` name of a followed part -> {"nats", "right"} [ends + 1, M], a token and a share of the items, before training first; `judged`
    end -> name of a judged part -> its items; `trees` the whole parameters of each member at the end, for its module."""

    ends: tuple[int, ...]
    curves: dict[str, dict[str, np.ndarray]]
    judged: dict[int, dict[str, Scored]]
    train_loss: np.ndarray  # [ends, M]
    seconds_per_step: float  # of one member while others train beside it; compilation left out
    parameters: list[int]
    trees: list[dict[str, Any]]

    def of(self, members: Sequence[int]) -> "Outcome":
        """Of these members alone."""
        at = np.asarray(members)
        return dataclasses.replace(
            self,
            curves={name: {what: value[:, at] for what, value in curve.items()} for name, curve in self.curves.items()},
            judged={
                end: {name: Scored(*(value[at] for value in vars(scored).values())) for name, scored in parts.items()}
                for end, parts in self.judged.items()
            },
            train_loss=self.train_loss[:, at],
            parameters=[self.parameters[m] for m in at],
            trees=[self.trees[m] for m in at],
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """Of a kind of arms."""

    model: CausalLM
    kind: Kind
    recipe: Recipe

    @functools.cached_property
    def module(self):
        """What members are applied by."""
        return arms.applied(self.model, self.kind)

    @functools.cached_property
    def trainer(self) -> sweep.Sweep:
        r, kind = self.recipe, self.kind
        optimizer = groups.adamw(r.steps, warm_up=kind.warm_up, weight_decay=0.0, decays=kind.decays, clip=CLIP)
        return sweep.Sweep(scored_tokens.gathered(self.module), optimizer, "sequential", devices.mesh())

    @functools.cached_property
    def _measure(self):
        return _measuring(self.module, self.recipe.batch, devices.mesh())

    @functools.cached_property
    def _judge(self):
        return _judging(self.module)

    def train(
        self,
        folder: RunFolder,
        phase: str,
        bases: Sequence[dict[str, Any]],
        members: list[sweep.Member],
        train: Part,
        follow: dict[str, Part],
        judge: dict[str, Part] | None = None,
    ) -> Outcome:
        """Each member from its base, one a member, on its seed's order of the rows; `follow` is measured before training and at every end, `judge`
        item by item."""
        if len(bases) != len(members):
            raise ValueError(f"{len(bases)} bases for {len(members)} members")
        r, judge, n = self.recipe, judge or {}, len(members)
        padded = sweep.even(members, devices.mesh())
        begun = arms.begun(self.module, self.kind, [*bases, *bases[-1:] * (len(padded) - n)], padded)
        state = groups.start(self.trainer, begun.stacked, begun.train, padded)
        orders = self._orders(padded, len(train.owners))
        of_bases = jax.device_get(state.own)  # a copy: training takes the state
        shared, rows = self.trainer.share(begun.shared, state), self.trainer.share(train.rows, state)
        followed = {name: self.trainer.share(part.rows, state) for name, part in follow.items()}

        def advance(state, block: int):
            losses, seconds = [], []
            for start in range(0 if block == 0 else r.ends[block - 1], r.ends[block], r.chunk):
                order = self.trainer.share(jnp.asarray(orders[:, start : start + r.chunk]), state)
                began = time.perf_counter()
                state, (loss, _) = self.trainer.run(state, shared, rows, order)
                losses.append(jax.block_until_ready(loss.mean(axis=1)[:n]))
                seconds.append((time.perf_counter() - began) / r.chunk / len(padded))
            values = {
                "loss": jnp.stack(losses).mean(axis=0),
                "seconds": min(seconds),
                "traces": len(self.trainer.traces),
            }
            if r.ends[block] in r.asked and judge:
                trees = [sweep.member_params(state, begun.shared, index) for index in range(n)]
                values |= {
                    f"{name} {what}": leaf
                    for name, part in judge.items()
                    for what, leaf in vars(self.scored(trees, part)).items()
                }
            return state, values

        def measured(state):
            found = {name: self._measure(state, shared, part) for name, part in followed.items()}
            return {
                f"of {name} {what}": value[:n] for name, sums in found.items() for what, value in _means(sums).items()
            }

        state, history = phases.train_blocks(
            folder, phase, state, begun.shared, advance, blocks=len(r.ends), follow=measured, members=n
        )
        _require_same(of_bases, state.own, f"{phase} in {folder.path}")
        return Outcome(
            r.ends,
            {name: {what: np.stack([line[f"of {name} {what}"] for line in history]) for what in ("nats", "right")} for name in follow},
            {
                end: {name: Scored(*(line[f"{name} {what}"] for what in ("nats", "tokens", "right"))) for name in judge}
                for end, line in zip(r.ends, history[1:], strict=True) if end in r.asked
            },
            np.stack([line["loss"] for line in history[1:]]),
            float(np.median([line["seconds"] for line in history[1:]])),
            groups.parameters(state, members),
            [sweep.member_params(state, begun.shared, index) for index in range(n)],
        )  # fmt: skip

    def _orders(self, members: list[sweep.Member], rows: int) -> np.ndarray:
        """int32 [M, S, B]: all rows an epoch, shuffled by the seed; an incomplete last batch goes over into the next epoch."""
        need = self.recipe.steps * self.recipe.batch

        def of(seed: int) -> np.ndarray:
            epochs = [np.random.default_rng((seed, epoch)).permutation(rows) for epoch in range(-(-need // rows))]
            return np.concatenate(epochs)[:need].reshape(self.recipe.steps, self.recipe.batch)

        return np.stack([of(member.seed) for member in members]).astype(np.int32)

    def scored(self, trees: list[dict[str, Any]], part: Part) -> Scored:
        """Each model on every item."""
        found = [self._scored(tree, part) for tree in trees]
        return Scored(*(np.stack([getattr(one, field.name) for one in found]) for field in dataclasses.fields(Scored)))

    def _scored(self, params: dict[str, Any], part: Part) -> Scored:
        size, b = len(part.owners), self.recipe.batch
        lines = []
        for start in range(0, size, b):
            at = np.minimum(np.arange(start, start + b), size - 1)  # the last batch is filled up with the last row
            lines.append(self._judge(params, jax.tree.map(lambda leaf, at=at: leaf[at], part.rows)))
        values = [
            np.concatenate([np.asarray(line[i]) for line in lines])[:size] for i in range(3)
        ]  # [N, P] each, by place's item
        real = part.owners >= 0
        ordered = []
        for value in values:
            of_items = np.zeros(part.count)
            of_items[part.owners[real]] = value[:, : part.owners.shape[1]][real]
            ordered.append(of_items)
        return Scored(ordered[0], ordered[1].astype(int), ordered[2].astype(bool))


def _require_same(begun: dict[str, Any], ended: dict[str, Any], phase: str) -> None:
    """UserError where frozen leaves of several bases [M, ...] came from a save of others: a save is bound to what members share alone."""
    same = jax.tree.map(lambda old, new: np.array_equal(old[: len(new)], new), begun, jax.device_get(ended))
    if not jax.tree.all(same):
        raise UserError(f"{phase} was saved with other bases; remove its folder in phases, and it is trained again.")


@functools.cache
def _measuring(module, batch: int, mesh: jax.sharding.Mesh | None):
    """`Sweep.evaluation` of `_sums`: one program for all recipes."""
    return sweep.Sweep(scored_tokens.gathered(module), optax.adamw, "sequential", mesh).evaluation(_sums(module), batch)


@functools.cache
def _judging(module):
    """`_items`, one program for all recipes."""
    return jax.jit(_items(module))


def _items(module):
    """(params, batch) -> (nats, tokens, right) [B, P], the k-th of a row being of its k-th item: a row has no more items than places."""
    judge = scored_tokens.judged(module)

    def items(params, batch):
        nats, hits = judge(params, batch)

        def row(nats, hits, items, weights):
            number = jnp.where(weights > 0, items, 0)
            count = number.shape[0] + 1

            def total(values):
                return jax.ops.segment_sum(values, number, num_segments=count)[1:]

            tokens = total(weights)
            return total(nats * weights), tokens, (total(hits * weights) == tokens) & (tokens > 0)

        return jax.vmap(row)(nats, hits, batch["items"], batch["weights"])

    return items


def _sums(module):
    """For `Sweep.evaluation`: a row's nats and tokens, its items and those that are right."""
    items = _items(module)

    def metric_fn(params, batch):
        nats, tokens, right = items(params, batch)
        return {"nats": nats.sum(1), "tokens": tokens.sum(1), "right": right.sum(1), "items": (tokens > 0).sum(1)}

    return metric_fn


def _means(sums: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {"nats": sums["nats"] / sums["tokens"], "right": sums["right"] / sums["items"]}
