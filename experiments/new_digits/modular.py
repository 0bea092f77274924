"""S3's modular use: the base answers for the digits it knows, base and adapter for the new ones. Who is asked, of an image?

Letters: M seeds, I images, V held-out images.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import lora_jax
from experiments.common.classification import by_item
from experiments.data.mnist import Split
from experiments.new_digits import study
from experiments.new_digits.settings import Settings
from lora_jax import sweep


def rows(
    settings: Settings, trainer: sweep.Sweep, model: nn.Module, state: sweep.SweepState, parts: study.Splits
) -> list[dict[str, Any]]:
    """Two rows: an oracle knows which digits are new; or the one who is surer answers, by a threshold that held-out images choose."""
    off_state = state._replace(own=lora_jax.scaled(state.own, 0.0))
    of = by_item(trainer, _said(model))
    on, off = (
        {part: of(s, {}, getattr(parts, part).on_device()) for part in ("validation", "test")}
        for s in (state, off_state)
    )
    old = int((~np.isin(parts.test.y, settings.new_digits)).sum())
    oracle = np.concatenate([off["test"][:, :old, 0], on["test"][:, old:, 0]], axis=1)
    surer = {part: on[part][..., 1] - off[part][..., 1] for part in on}
    bars = [
        threshold(*values)
        for values in zip(surer["validation"], on["validation"][..., 0], off["validation"][..., 0], strict=True)
    ]
    routed = np.where(surer["test"] > np.asarray(bars)[:, None], on["test"][..., 0], off["test"][..., 0])
    return [
        {
            "name": "adapter on for new digits alone, by an oracle",
            "kind": "oracle",
            **_row(oracle, parts.test, settings),
        },
        {
            "name": "adapter on where it is surer",
            "kind": "confidence",
            "thresholds": bars,
            **_row(routed, parts.test, settings),
        },
    ]


def _row(correct: np.ndarray, test: Split, settings: Settings) -> dict[str, Any]:
    return study.scored(correct.astype(int), test, settings)


def _said(model: nn.Module):
    """Per-example values [B, 2]: whether the model is right, and the logarithm of its highest probability."""

    def value_fn(params: Any, batch: Any):
        said = jax.nn.log_softmax(model.apply({"params": params}, batch["x"]))
        return jnp.stack([said.argmax(axis=-1) == batch["y"], said.max(axis=-1)], axis=-1)

    return value_fn


def threshold(surer: np.ndarray, on: np.ndarray, off: np.ndarray) -> float:
    """Above which `on` is to be taken, so that most are right; all [V], `on` and `off` 1 for right.

    >>> threshold(np.array([0.0, 1.0, 2.0]), np.array([0, 1, 1]), np.array([1, 0, 0]))
    0.5
    """
    order = np.argsort(surer)
    values = surer[order]
    # the first k by `off`, the others by `on`
    right = np.concatenate([[0], np.cumsum(off[order])]) + np.concatenate([np.cumsum(on[order][::-1])[::-1], [0]])
    ends = np.concatenate([[values[0] - 1], (values[:-1] + values[1:]) / 2, [values[-1] + 1]])
    return float(ends[int(right.argmax())])
