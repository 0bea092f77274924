"""Batch statistics of an NNX model as a tree: what training changes beside its parameters."""

import warnings
from typing import Any

import jax
import numpy as np
from flax import nnx

from lora_jax.errors import TreeError, UnsavedStateWarning
from lora_jax.nnx.trees import named, value_of
from lora_jax.tree import Params, differences, flat, nested


def statistics_of(model: nnx.Module) -> dict[str, Any]:
    """The model's `nnx.BatchStat`s by the names of their paths: `checkpoint.save_adapter(..., collections={"batch_stats": ...})` keeps them.

    >>> sorted(statistics_of(nnx.BatchNorm(2, rngs=nnx.Rngs(0))))
    ['mean', 'var']
    """
    state = nnx.state(model, nnx.BatchStat)
    return nested({named(path): value_of(leaf) for path, leaf in nnx.to_flat_state(state)})


def put_statistics(model: nnx.Module, statistics: Params) -> None:
    """Gives a model these statistics.

    Raises:
      TreeError: where they are not those of the model; it lists every difference.

    >>> norm = nnx.BatchNorm(2, rngs=nnx.Rngs(0))
    >>> put_statistics(norm, {"mean": np.ones(2, np.float32), "var": np.ones(2, np.float32)})
    >>> norm.mean[...].tolist()
    [1.0, 1.0]
    """
    given = flat(statistics)
    problems = differences(flat(statistics_of(model)), given)
    if problems:
        raise TreeError(f"the statistics are not this model's: {'; '.join(problems[:5])}.")
    state = nnx.to_flat_state(nnx.state(model, nnx.BatchStat))
    changed = [(path, leaf.replace(jax.numpy.asarray(given[named(path)]))) for path, leaf in state]
    nnx.update(model, nnx.from_flat_state(changed))


def warn_of_changed(model: nnx.Module, before: Any, kept: Params | None = None) -> None:
    """Warns where the statistics are no longer those of before, nor kept: they are no parameters, and a tree of these is without them."""
    then = {named(path): value_of(leaf) for path, leaf in nnx.to_flat_state(before) if isinstance(leaf, nnx.BatchStat)}
    then |= flat(kept or {})
    now = flat(statistics_of(model))
    changed = [path for path in then if path in now and not _is_same(then[path], now[path])]
    if changed:
        warnings.warn(
            UnsavedStateWarning(
                f"{changed[0]} has changed in training and is no parameter: keep statistics = lora_jax.nnx.statistics_of(model) too, say "
                "so by params_of(model, statistics=statistics), save it by save_adapter(..., collections={'batch_stats': statistics}), and give it "
                "back by inject(params, statistics=statistics)."
            ),
            stacklevel=3,
        )


def _is_same(old: Any, new: Any) -> bool:
    if isinstance(old, jax.ShapeDtypeStruct) or isinstance(new, jax.core.Tracer):
        return True
    return old is new or np.array_equal(np.asarray(old), np.asarray(new), equal_nan=True)
