"""Answers in words, prompts in batches: few shapes, so few programs are compiled."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common.errors import UserError
from experiments.studies.finetune_base import Base, Voice
from lora_jax import mesh
from lora_jax.models.generation import Sampling, generate

ROUNDED = 64  # tokens that the width of prompts is a multiple of
AT_ONCE = 16  # prompts


def answers(
    base: Base,
    voice: Voice,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    sampling: Sampling = Sampling(),
    seed: int = 0,
) -> list[str]:
    """The model's answer to each prompt, up to the first token that ends one.

    Raises:
      UserError: for a prompt that leaves no room for an answer.
    """
    most = base.positions - max_new_tokens
    longest = max(map(len, prompts))
    if longest > most:
        raise UserError(
            f"a prompt of {longest:,} tokens leaves no room for {max_new_tokens:,} more in the {base.positions:,} of this model; ask less."
        )
    width = min(most, -(-longest // ROUNDED) * ROUNDED)
    rows = 1 if len(prompts) == 1 else AT_ONCE
    found: list[str] = []
    for start in range(0, len(prompts), rows):
        part = prompts[start : start + rows]
        ids, lengths = np.zeros((rows, width), np.int32), np.zeros(rows, np.int32)
        for row, prompt in enumerate([*part, *[part[-1]] * (rows - len(part))]):
            ids[row, : len(prompt)], lengths[row] = prompt, len(prompt)
        made = generate(
            base.model, voice.params, jnp.asarray(ids), jnp.asarray(lengths), jax.random.fold_in(jax.random.key(seed), start),
            max_new_tokens=max_new_tokens, sampling=sampling, stop=base.tokenizer.stop, through=voice.through,
        )  # fmt: skip
        found += [_text(base, row) for row in mesh.fetch(made)[: len(part)].tolist()]
    return found


def _text(base: Base, tokens: Sequence[int]) -> str:
    ends = [place for place, token in enumerate(tokens) if token in base.tokenizer.stop]
    return base.tokenizer.decode(tokens[: ends[0]] if ends else tokens).strip()


def agreement(said: Sequence[str], true: Sequence[str], right: Sequence[bool]) -> dict[str, int]:
    """How many answers are right, or wrong, both by what was said and by `finetune_scores`."""
    alike = [(one == other) == bool(called) for one, other, called in zip(said, true, right, strict=True)]
    return {"n": len(alike), "alike": sum(alike)}
