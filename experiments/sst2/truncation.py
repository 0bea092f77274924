"""How much of full fine-tuning does a rank hold? Its update, cut to rank r by its singular values, and scored.

Cut are the encoder's matrices, all of them or query and value alone, each by itself; all else (embeddings, norms, biases, the head) stays as full
fine-tuning left it, so that what is lost is lost by the rank.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common.items import packed
from experiments.common.statistics import with_outcomes
from experiments.sst2 import training
from experiments.sst2.outcomes import kernels
from experiments.sst2.settings import REFERENCE_RANK
from experiments.sst2.training import Outcome, Task
from lora_jax.tree import flat, nested

CUT = {"every matrix": ("",), "query and value": ("/query/", "/value/")}
Tree = dict[str, Any]


def rows(task: Task, outcome: Outcome, ranks: tuple[int, ...]) -> list[dict[str, Any]]:
    """A row for each kind of cut and rank, 0 among them, with accuracy and what was right by seed; `task` is full fine-tuning's."""
    start, seeds = flat(task.base), range(len(outcome.members))
    trained = [{path: leaf[seed] for path, leaf in flat(outcome.state.train.trainable).items()} for seed in seeds]
    factors = [_factors(start, leaves) for leaves in trained]
    wanted = sorted({0, REFERENCE_RANK, *ranks})
    found = []
    for cut, names in CUT.items():
        for rank in wanted:
            right = np.stack(
                [
                    _right(task, _at(leaves, svd, start, names, rank))
                    for leaves, svd in zip(trained, factors, strict=True)
                ]
            )
            found.append(
                {
                    "cut": cut,
                    "rank": rank,
                    **with_outcomes(accuracy=right.mean(axis=1)),
                    "right": packed(right),
                }
            )
    return found


def _factors(start: Tree, leaves: Tree) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    return {
        path: np.linalg.svd(np.asarray(leaves[path], np.float64) - np.asarray(start[path]), full_matrices=False)
        for path in kernels(start)
    }


def _at(leaves: Tree, factors: dict[str, tuple], start: Tree, names: tuple[str, ...], rank: int) -> Tree:
    """The parameters with the named updates at this rank."""
    cut = {
        path: jnp.asarray(np.asarray(start[path]) + (u[:, :rank] * s[:rank]) @ vt[:rank], jnp.float32)
        for path, (u, s, vt) in factors.items()
        if any(name in path for name in names)
    }
    return nested({**leaves, **cut})


def _right(task: Task, params: Tree) -> np.ndarray:
    """bool [I], in the order of the sentences."""
    right = np.zeros(task.items, bool)
    for bucket in task.score:
        ids = np.asarray(bucket["x"])
        for begin in range(0, len(ids), training.EVALUATION_BATCH):
            some = ids[begin : begin + training.EVALUATION_BATCH]
            padded = np.pad(some, ((0, training.EVALUATION_BATCH - len(some)), (0, 0)), constant_values=1)
            said = np.asarray(_said(task.model, params, jnp.asarray(padded)))[: len(some)]
            where = slice(begin, begin + len(some))
            right[np.asarray(bucket["row"][where])] = said == np.asarray(bucket["y"][where])
    return right


def _predict(model, params: Tree, ids: jax.Array) -> jax.Array:
    return model.apply({"params": params}, ids, ids != 0).argmax(axis=-1)


_said = jax.jit(_predict, static_argnums=0)
