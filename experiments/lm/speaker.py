"""Answers in words: a base and what was made of it, asked through the key/value cache."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import tokenizers
from etils import epath

from experiments.common import speaking
from experiments.common.errors import UserError
from experiments.lm import answers, bpe
from lora_jax import checkpoint
from lora_jax.models import causal_folder
from lora_jax.models.causal_lm import CausalLM
from lora_jax.models.generation import Sampling

ROUNDED = 32  # prompts are padded to a multiple, so that few shapes are compiled


@dataclasses.dataclass(frozen=True, eq=False)
class Base:
    """A pretrained model with its tokenizer."""

    path: epath.Path
    model: CausalLM
    params: dict[str, Any]
    tokenizer: tokenizers.Tokenizer


@dataclasses.dataclass(frozen=True, eq=False)
class Voice:
    """Parameters for a base's model, and what wraps it, if anything does (LoRA)."""

    params: dict[str, Any]
    through: nn.Module | None = None


def load(path: str | epath.PathLike, *, weights: str | None = None, dtype: str = "float32") -> Base:
    """What `--job=pretrain` left in a folder, to be computed in `dtype`.

    Args:
      weights: the fingerprint that the parameters must have.

    Raises:
      ModelError, UserError: for a folder that is none, whose tokenizer belongs to another model, or whose weights are others.
    """
    found = causal_folder.read(path)
    if weights is not None and checkpoint.fingerprint(found.params) != weights:
        raise UserError(
            f"{path} does not hold the weights that its run wrote; remove the run's folder, and it is made again."
        )
    tokenizer = bpe.read(found.path, found.config.vocab_size)
    return Base(found.path, CausalLM(found.config, dtype=jnp.dtype(dtype)), found.params, tokenizer)


def outputs(
    base: Base, voice: Voice, questions: Sequence[str], *, max_new_tokens: int, sampling: Sampling = Sampling()
) -> list[str]:
    """The model's answer to each question, up to <end>: the likeliest one, or one drawn as `sampling` says, the same in every run.

    Raises:
      UserError: for a question that leaves no room for an answer.
    """
    tokenizer, model = base.tokenizer, base.model
    prompts = [answers.prompt(tokenizer, question) for question in questions]
    most = model.config.max_position_embeddings - max_new_tokens
    for question, prompt in zip(questions, prompts, strict=True):
        if len(prompt) > most:
            raise UserError(
                f"a question of {len(prompt)} tokens leaves no room for {max_new_tokens} more in {most + max_new_tokens}: "
                f"{question[:40]!r} ...; ask a shorter one."
            )
    stop = tokenizer.token_to_id(bpe.END)
    found: list[str] = []
    for start in range(0, len(prompts), speaking.AT_ONCE):
        part = prompts[start : start + speaking.AT_ONCE]
        said = speaking.continued(
            model, voice.params, voice.through, part, speaking.padded(max(map(len, part)), ROUNDED, most), is_one=len(prompts) == 1,
            stops=(stop,), max_new_tokens=max_new_tokens, sampling=sampling, key=jax.random.key(start),
        )  # fmt: skip
        found += [tokenizer.decode(tokens).strip() for tokens in said]
    return found
