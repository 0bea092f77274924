"""Prompts of one batch continued by a model, each up to its first stop."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from lora_jax import mesh
from lora_jax.models.causal_lm import CausalLM
from lora_jax.models.generation import generate

AT_ONCE = 16  # prompts


def padded(longest: int, multiple: int, most: int) -> int:
    """The width of a batch: a multiple, so that few shapes are compiled, and at most so much."""
    return min(most, -(-longest // multiple) * multiple)


def continued(
    model: CausalLM,
    params: dict[str, Any],
    through: nn.Module | None,
    prompts: Sequence[Sequence[int]],
    width: int,
    *,
    is_one: bool,
    stops: Sequence[int],
    **how: Any,
) -> list[list[int]]:
    """The new tokens of each of at most AT_ONCE prompts, without the stop that ends them.

    Args:
      width: of the batch.
      is_one: whether the batch has one row, and not AT_ONCE, which the last prompt fills up.
      how: further arguments of `generate`.
    """
    rows = 1 if is_one else AT_ONCE
    ids, lengths = np.zeros((rows, width), np.int32), np.zeros(rows, np.int32)
    for row, prompt in enumerate([*prompts, *[prompts[-1]] * (rows - len(prompts))]):
        ids[row, : len(prompt)], lengths[row] = prompt, len(prompt)
    made = generate(model, params, jnp.asarray(ids), jnp.asarray(lengths), stop=tuple(stops), through=through, **how)
    return [_ended(row, stops) for row in mesh.fetch(made)[: len(prompts)].tolist()]


def _ended(tokens: list[int], stops: Sequence[int]) -> list[int]:
    return tokens[: next((place for place, token in enumerate(tokens) if token in stops), len(tokens))]
