"""Questions and answers as packed rows: only the answers' tokens are scored; what does not fit is counted and left out."""

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np
import tokenizers

from experiments.common.errors import UserError
from experiments.data import packing
from experiments.data.questions import Pair
from experiments.lm import bpe


@dataclasses.dataclass(frozen=True, eq=False)
class Encoded:
    """`examples` and the `pairs` they were made of, one for one; `too_long` pairs had more tokens than `length`."""

    examples: tuple[packing.Example, ...]
    pairs: tuple[Pair, ...]
    too_long: int


def prompt(tokenizer: tokenizers.Tokenizer, question: str) -> list[int]:
    """<question> ... <answer>: what the model is given."""
    start, stop = tokenizer.token_to_id(bpe.QUESTION), tokenizer.token_to_id(bpe.ANSWER)
    return [start, *tokenizer.encode(question, add_special_tokens=False).ids, stop]


def encode(tokenizer: tokenizers.Tokenizer, pairs: Sequence[Pair], length: int) -> Encoded:
    """Each pair as <question> ... <answer> ... <end>.

    Raises:
      UserError: where none of them fits into `length` tokens.
    """
    end = tokenizer.token_to_id(bpe.END)
    examples, kept = [], []
    for pair in pairs:
        asked = prompt(tokenizer, pair.question)
        told = tokenizer.encode(pair.answer, add_special_tokens=False).ids
        if len(asked) + len(told) + 1 <= length:
            examples.append(packing.Example.of_pair(asked, (*told, end)))
            kept.append(pair)
    if not examples:
        raise UserError(
            f"none of {len(pairs):,} questions fits with its answer into {length} tokens; take a longer --length."
        )
    return Encoded(tuple(examples), tuple(kept), len(pairs) - len(kept))


def split(pairs: Sequence[Pair], counts: Sequence[int]) -> list[tuple[Pair, ...]]:
    """Disjoint parts of so many pairs each, by a hash of the question: a pair's part does not depend on the others' order.

    Pairs with the same question stay together. The last part may be short.

    Raises:
      UserError: where there are too few for the parts but the last.
    """
    by_question: dict[str, list[Pair]] = {}
    for pair in pairs:
        by_question.setdefault(pair.question, []).append(pair)
    ordered = sorted(by_question, key=lambda question: hashlib.sha256(question.encode()).digest())
    flat = [pair for question in ordered for pair in by_question[question][:1]]  # one answer to a question
    needed = int(np.sum(counts[:-1])) + 1
    if len(flat) < needed:
        raise UserError(f"there are {len(flat):,} different questions; at least {needed:,} are needed.")
    ends = np.cumsum(counts)
    return [tuple(flat[end - count : end]) for count, end in zip(counts, ends, strict=True)]


def rows(encoded: Encoded, length: int) -> dict[str, np.ndarray]:
    """The examples packed, as `packing.gathered` has them: only places that are scored reach the output layer."""
    return packing.gathered(packing.place(encoded.examples, length)[0])
