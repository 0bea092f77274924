"""Instructions that no rule checks: is the true answer likelier after its own question than after another?

Three measures, in nats an answer or as a share, each of every item, so that two models are compared item by item:

- use of the question: nats(answer | another question) - nats(answer | its own), the mean over OTHERS others. An untuned language model has it
  above 0, too, as an answer shares words and topic with its question: it is told minus the base's.
- use of the instruction: the same where only the instruction is another's and its input is kept, so that topic and words stay; of items with
  an input.
- discrimination: whether its own answer has the highest log p(answer | question) - log p(answer) among CANDIDATES answers of like length.

Letters: I items, J items with an input, M models, C candidates.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import tokenizers

from experiments.data.questions import Pair
from experiments.following import parts
from experiments.following.parts import Part
from experiments.following.program import Scored

OTHERS = 3
CANDIDATES = 10
MOST = 60  # tokens of a question, and of an answer: any two of them fit into a row


@dataclasses.dataclass(frozen=True, eq=False)
class Open:
    """`part` holds every question with every answer that it is asked with; the arrays say where, as numbers of its items."""

    part: Part
    own: np.ndarray  # [I]
    others: np.ndarray  # [I, OTHERS]
    candidates: np.ndarray  # [I, C], the own answer first
    alone_candidates: np.ndarray  # [I, C], the same after no question
    own_with_input: np.ndarray  # [J]
    other_instruction: np.ndarray  # [J]

    def measures(self, scored: Scored) -> dict[str, np.ndarray]:
        """ "question" [M, I] and "instruction" [M, J] in nats; "discrimination" [M, I], a tie counting its share; "nats" [M, I] a token."""
        nats = scored.nats
        gains = nats[:, self.alone_candidates] - nats[:, self.candidates]  # [M, I, C]
        ties = gains == gains.max(axis=-1, keepdims=True)
        return {
            "question": nats[:, self.others].mean(axis=-1) - nats[:, self.own],
            "instruction": nats[:, self.other_instruction] - nats[:, self.own_with_input],
            "discrimination": ties[:, :, 0] / ties.sum(axis=-1),
            "nats": nats[:, self.own] / scored.tokens[:, self.own],
        }


def is_short(tokenizer: tokenizers.Tokenizer, pair: Pair) -> bool:
    """Whether question and answer have at most MOST tokens each."""
    return all(
        len(tokenizer.encode(text, add_special_tokens=False).ids) <= MOST for text in (pair.question, pair.answer)
    )


def of(tokenizer: tokenizers.Tokenizer, pairs: Sequence[Pair], length: int, seed: int = 0) -> Open:
    """What is asked of short pairs; more than CANDIDATES of them, with different answers."""
    rng = np.random.default_rng(seed)
    asked: dict[Pair, int] = {}

    def place(question: str, answer: str) -> int:
        return asked.setdefault(Pair(question, answer), len(asked))

    with_input = [i for i, pair in enumerate(pairs) if pair.input]
    like = _of_like_length(tokenizer, pairs)
    found = {
        "own": [place(*pair[:2]) for pair in pairs],
        "others": [[place(pairs[j].question, pair.answer) for j in _others(rng, len(pairs), i, OTHERS)] for i, pair in enumerate(pairs)],
        "candidates": [[place(pair.question, pairs[j].answer) for j in like[i]] for i, pair in enumerate(pairs)],
        "alone_candidates": [[place("", pairs[j].answer) for j in of_item] for of_item in like],
        "own_with_input": [place(*pairs[i][:2]) for i in with_input],
        "other_instruction": [place(_reworded(rng, pairs, with_input, i), pairs[i].answer) for i in with_input],
    }  # fmt: skip
    part = parts.packed(tokenizer, list(asked), length)
    if part.count != len(asked):
        raise ValueError(
            f"{len(asked) - part.count} of {len(asked)} do not fit into {length} tokens; give short pairs alone."
        )
    return Open(part, **{name: np.asarray(value, int) for name, value in found.items()})


def _others(rng: np.random.Generator, count: int, own: int, wanted: int) -> np.ndarray:
    drawn = rng.choice(count - 1, wanted, replace=False)
    return drawn + (drawn >= own)


def _reworded(rng: np.random.Generator, pairs: Sequence[Pair], with_input: Sequence[int], own: int) -> str:
    """Another item's instruction, other in words, with this one's input."""
    instructions = {pairs[i].instruction for i in with_input} - {pairs[own].instruction}
    return f"{rng.choice(sorted(instructions))}\n{pairs[own].input}" if instructions else pairs[own].question


def _of_like_length(tokenizer: tokenizers.Tokenizer, pairs: Sequence[Pair]) -> list[list[int]]:
    """[I][C]: each item and those whose answers differ from its own and are nearest to it in tokens, ties by their order."""
    lengths = np.asarray([len(tokenizer.encode(pair.answer, add_special_tokens=False).ids) for pair in pairs])
    found = []
    for i, pair in enumerate(pairs):
        near = np.argsort(np.abs(lengths - lengths[i]), kind="stable")
        chosen: dict[str, int] = {pair.answer: i}
        for j in near:
            if len(chosen) == CANDIDATES:
                break
            chosen.setdefault(pairs[j].answer, int(j))
        found.append(list(chosen.values()))
    return found
