"""Answers in words, prompts in batches: few shapes, so few programs are compiled."""

from collections.abc import Sequence

import jax

from experiments.common import speaking
from experiments.common.errors import UserError
from experiments.finetune.base import Base, Voice
from lora_jax.models.generation import Sampling

ROUNDED = 64  # tokens that the width of prompts is a multiple of


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
    width = speaking.padded(longest, ROUNDED, most)
    found: list[str] = []
    for start in range(0, len(prompts), speaking.AT_ONCE):
        key = jax.random.fold_in(jax.random.key(seed), start)
        said = speaking.continued(
            base.model, voice.params, voice.through, prompts[start : start + speaking.AT_ONCE], width, is_one=len(prompts) == 1,
            stops=base.tokenizer.stop, key=key, max_new_tokens=max_new_tokens, sampling=sampling,
        )  # fmt: skip
        found += [base.tokenizer.decode(tokens).strip() for tokens in said]
    return found


def agreement(said: Sequence[str], true: Sequence[str], right: Sequence[bool]) -> dict[str, int]:
    """How many answers are right, or wrong, both by what was said and by `finetune_scores`."""
    alike = [(one == other) == bool(called) for one, other, called in zip(said, true, right, strict=True)]
    return {"n": len(alike), "alike": sum(alike)}
