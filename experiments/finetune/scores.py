"""How well a model answers: nats a token of the true answers, and whether each is what it would say, with intervals.

An answer is right where every token of it, its end included, is the likeliest after the question and the tokens before: then greedy decoding
says it (`finetune_speaking` counts how often the two agree). Letters: B rows of a batch, P scored places of a row, N items.
"""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from experiments.common import scored_tokens, statistics
from experiments.finetune.base import Voice
from experiments.finetune.rows import Packed
from lora_jax import mesh


@dataclasses.dataclass(frozen=True)
class Scores:
    """Of each item [N]: nats and number of its answers' tokens, and whether all of them are right."""

    nats: np.ndarray
    tokens: np.ndarray
    right: np.ndarray

    def __len__(self) -> int:
        return len(self.nats)

    def loss(self, rows: np.ndarray) -> np.ndarray:
        """Nats a token of these items [..., n] together, [...]."""
        return self.nats[rows].sum(-1) / self.tokens[rows].sum(-1)

    def lists(self) -> dict[str, list]:
        """For a file."""
        return {field.name: getattr(self, field.name).tolist() for field in dataclasses.fields(self)}

    @classmethod
    def of_lists(cls, value: dict[str, list]) -> "Scores":
        return cls(np.asarray(value["nats"]), np.asarray(value["tokens"]), np.asarray(value["right"], bool))


class Measure:
    """`measure(params, packed) -> Scores`, one compiled program for all rows of a length."""

    def __init__(self, through: Any, batch_size: int):
        self._judge = _judging(through)
        self._batch_size = batch_size

    def __call__(self, params: dict[str, Any], packed: Packed) -> Scores:
        size, b = len(packed), self._batch_size
        found = []
        for start in range(0, size, b):
            rows = np.minimum(np.arange(start, start + b), size - 1)  # the last batch is filled up with the last row
            nats, hits = self._judge(params, jax.tree.map(lambda leaf, rows=rows: leaf[rows], packed.rows))
            found.append(mesh.fetch((nats, hits)))
        nats, hits = (np.concatenate(part)[:size] for part in zip(*found, strict=True))
        return _of_items(nats, hits, packed.owners)


@functools.lru_cache(maxsize=8)
def _judging(through: Any):
    """One program for all measures of a model."""
    return jax.jit(scored_tokens.judged(through))


def _of_items(nats: np.ndarray, hits: np.ndarray, owners: np.ndarray) -> Scores:
    real = owners >= 0
    items, count = owners[real], int(owners.max()) + 1
    tokens = np.bincount(items, minlength=count)
    return Scores(
        np.bincount(items, nats[real].astype(np.float64), count),
        tokens,
        np.bincount(items, hits[real], count) == tokens,
    )


def of_voice(voice: Voice, packed: Packed, batch_size: int) -> Scores:
    """Those of one model."""
    return Measure(voice.through, batch_size)(voice.params, packed)


def summary(scores: Scores) -> dict[str, Any]:
    """Loss in nats a token (bootstrap over items) and accuracy (Wilson), each with its interval of 95 %."""
    return {
        "loss": statistics.bootstrap(scores.loss, len(scores)),
        "accuracy": statistics.wilson(int(scores.right.sum()), len(scores)),
    }


def difference(before: Scores, after: Scores) -> dict[str, Any]:
    """After - before of the same items: the loss by bootstrap, each resample takes the same of both; the accuracy by Newcombe's interval."""
    return {
        "loss": statistics.bootstrap(lambda rows: after.loss(rows) - before.loss(rows), len(before)),
        "accuracy": statistics.paired(before.right, after.right),
    }


def by_kind(scores: Scores, kinds: list[str]) -> dict[str, dict[str, int]]:
    """Of each kind of question how many there are, and how many are right."""
    found: dict[str, dict[str, int]] = {}
    for kind, right in zip(kinds, scores.right, strict=True):
        of = found.setdefault(kind, {"n": 0, "right": 0})
        of["n"] += 1
        of["right"] += int(right)
    return found
