"""Conversations as packed rows of a model's tokens, only answers scored; what does not fit is counted.

Letters: N rows, T tokens, P scored places of a row.
"""

import collections
import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common.errors import UserError
from experiments.data import packing
from experiments.data.conversations import Conversation
from experiments.finetune.base import Base
from lora_jax.errors import ModelError


@dataclasses.dataclass(frozen=True, eq=False)
class Encoded:
    """`conversations` as `examples`, one for one; `left_out` says how many others there were, by reason."""

    conversations: tuple[Conversation, ...]
    examples: tuple[packing.Example, ...]
    left_out: dict[str, int]

    @property
    def tokens(self) -> int:
        return sum(len(example.ids) for example in self.examples)


@dataclasses.dataclass(frozen=True, eq=False)
class Packed:
    """`rows` as `packing.gathered` gives them, on the device; `owners` int [N, P]: the example each scored place is of, -1 for none."""

    rows: dict[str, jax.Array]
    owners: np.ndarray
    tokens: np.ndarray  # [N], of each row, padding left out

    def __len__(self) -> int:
        return len(self.owners)


def encode(base: Base, conversations: Sequence[Conversation], length: int, *, what: str) -> Encoded:
    """Each conversation by the model's chat template.

    Args:
      what: they are, for messages.

    Raises:
      UserError: where none fits into `length` tokens, or the template takes none.
    """
    kept, examples, left_out = [], [], collections.Counter()
    refusal = None
    for conversation in conversations:
        try:
            ids, is_answer = base.tokenizer.conversation(base.fitted(conversation.messages))
        except ModelError as error:
            refusal = error
            left_out["refused by the chat template"] += 1
            continue
        if len(ids) > length:
            left_out["too long"] += 1
            continue
        kept.append(conversation)
        examples.append(packing.Example(ids, is_answer))
    if not examples and refusal is not None and not left_out["too long"]:
        raise UserError(f"none of {len(conversations):,} conversations {what} can be used: {refusal}") from refusal
    if not examples:
        raise UserError(
            f"none of {len(conversations):,} conversations {what} fits into {length} tokens; take a longer --length."
        )
    return Encoded(tuple(kept), tuple(examples), dict(left_out))


def pack(encoded: Encoded, length: int) -> Packed:
    """Several conversations in a row; attention and positions stay within one."""
    rows, members = packing.place(encoded.examples, length)
    batch = packing.gathered(rows)
    segments = np.take_along_axis(rows.segments, batch["places"], axis=1)
    owners = np.full(segments.shape, -1)
    for row, held in enumerate(members):
        real = batch["weights"][row] > 0
        owners[row, real] = np.asarray(held)[segments[row, real] - 1]
    return Packed(jax.tree.map(jnp.asarray, batch), owners, (rows.segments > 0).sum(axis=1))
