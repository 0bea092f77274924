"""What a base is fed beside plain text, so that it can be taught to follow: lists said again, and questions with answers.

A base of this size that reads a few million tokens of plain text never learns to copy, and without copying no fine-tuning makes it follow an
instruction. Sequences that are said several times teach it in some hundred steps; they come first, and a share of them stays in the text.
Rows of <question> ... <answer> ... <end> make the control tokens known: a sentence and the next one, or a passage or a list and a part of it said
again.
No row says what is asked for: following is left to fine-tuning.
"""

import collections
import dataclasses
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tokenizers

from experiments.data import packing
from experiments.lm import bpe
from experiments.lm.pretraining_settings import Settings

SAID_AGAIN = (3, 40)  # tokens
WORD, WORDS, DOCUMENTS = re.compile(r"(?<= )[a-z]{3,9}(?= )"), 6000, 500  # of lists: the commonest in so many documents
TIMES_SAID = (2, 5)
SENTENCE = re.compile(r"[A-Z][^.!?\n]{15,140}[.!?](?=\s)")
FIELDS = ("ids", "segments", "scored")
AT_ONCE = 1000  # pairs encoded together
LISTED, LIST = 0.5, (3, 8)  # how many lists a pair of sentences, and of how many words
PASSAGE = 3  # sentences of a passage, of which one or all are said again


class Fed(NamedTuple):
    """Rows that training sees first, in their order, and the others."""

    first: packing.Rows
    then: packing.Rows


def fed(tokenizer: tokenizers.Tokenizer, documents: Sequence[str], settings: Settings, text: packing.Rows) -> Fed:
    """Rows of lists for the first steps, and then the text with its shares of dialogues and lists."""
    s = settings
    total, ahead = len(text.ids) / (1 - s.lists - s.dialogues), s.list_steps * s.batch_size
    said_again = lists(tokenizer, documents, text, ahead + round(s.lists * total), s.length, s.seed)
    first, rest = (said_again.part(rows) for rows in (slice(ahead), slice(ahead, None)))
    asked = dialogues(tokenizer, documents, round(s.dialogues * total), s.length, s.seed, copies=s.copies)
    return Fed(first, packing.Rows.joined([text, asked, rest]))


def lists(
    tokenizer: tokenizers.Tokenizer, documents: Sequence[str], text: packing.Rows, count: int, length: int, seed: int
) -> packing.Rows:
    """`count` rows of sequences said 2 to 5 times, scored from the second time on: lists of words, any tokens at random, and pieces of the text.

    Where only words are listed, only words are copied.
    """
    rng, found = np.random.default_rng((seed, 1)), _no_rows(count, length)
    draws = (_list_of_words(tokenizer, documents),) * 2 + (_any_tokens(tokenizer), _piece_of(text))
    for row in range(count):
        _fill(found, row, rng, draws)
    return found


def _words(documents: Sequence[str]) -> list[str]:
    counts = collections.Counter(word for document in documents[:DOCUMENTS] for word in WORD.findall(document))
    return [word for word, _ in counts.most_common(WORDS)]


Draw = Callable[[np.random.Generator, int], np.ndarray]  # (rng, how many) -> int32 tokens


def _list_of_words(tokenizer: tokenizers.Tokenizer, documents: Sequence[str]) -> Draw:
    """Words of the text, most of them of several tokens, in half of the lists with commas between."""
    words = _words(documents)
    comma = tokenizer.encode(",", add_special_tokens=False).ids
    encoded = [
        encoding.ids for encoding in tokenizer.encode_batch([f" {word}" for word in words], add_special_tokens=False)
    ]

    def draw(rng: np.random.Generator, size: int) -> np.ndarray:
        between = comma if rng.random() < 0.5 else []
        said = [encoded[word] + between for word in rng.integers(len(encoded), size=size)]
        return np.asarray(list(itertools.chain.from_iterable(said))[:size], np.int32)

    return draw


def _any_tokens(tokenizer: tokenizers.Tokenizer) -> Draw:
    return lambda rng, size: rng.integers(len(bpe.SPECIAL), tokenizer.get_vocab_size(), size).astype(np.int32)


def _piece_of(text: packing.Rows) -> Draw:
    def draw(rng: np.random.Generator, size: int) -> np.ndarray:
        row, start = rng.integers(len(text.ids)), rng.integers(text.ids.shape[1] - size)
        return text.ids[row, start : start + size]

    return draw


def _no_rows(count: int, length: int) -> packing.Rows:
    return packing.Rows(*(np.zeros((count, length), dtype) for dtype in (np.int32, np.int32, bool)))


def _fill(rows: packing.Rows, row: int, rng: np.random.Generator, draws: Sequence[Draw]) -> None:
    """One row with as many sequences as fit; the last one is cut off."""
    ids, segments, scored = (getattr(rows, name)[row] for name in FIELDS)
    length, at, number = len(ids), 0, 0
    while at < length - 2 * SAID_AGAIN[0]:
        number += 1
        said = draws[rng.integers(len(draws))](rng, rng.integers(*SAID_AGAIN, endpoint=True))
        whole = np.tile(said, rng.integers(*TIMES_SAID, endpoint=True))[: length - at]
        ids[at : at + len(whole)], segments[at : at + len(whole)] = whole, number
        scored[at + len(said) - 1 : at + len(whole) - 1] = True  # the first token of the second time, too
        at += len(whole)


def dialogues(
    tokenizer: tokenizers.Tokenizer,
    documents: Sequence[str],
    count: int,
    length: int,
    seed: int,
    *,
    copies: bool = True,
) -> packing.Rows:
    """`count` rows of <question> ... <answer> ... <end> from the documents' sentences and words, as many as fit whole; every token is scored.

    Unless it `copies`, every answer is the sentence after the question.
    """
    rng = np.random.default_rng((seed, 2))
    examples: list[packing.Example] = []
    pairs, filled = _pairs(rng, documents) if copies else _of_sentences(rng, documents, copies=0.0), 0
    while filled < count * length and (batch := list(itertools.islice(pairs, AT_ONCE))):
        more = list(_encoded(tokenizer, batch, length))
        examples += more
        filled += sum(len(example.ids) for example in more)
    placed = packing.place(examples, length)[0] if examples else _no_rows(0, length)
    scored = dataclasses.replace(placed, scored=packing.continues(placed.segments))
    return scored.part(rng.permutation(len(scored))[:count])


def _pairs(rng: np.random.Generator, documents: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(question, answer): of sentences and, after each, with a chance of LISTED, of a list."""
    words = _words(documents)
    for pair in _of_sentences(rng, documents):
        yield pair
        if words and rng.random() < LISTED:
            yield _of_list(rng, words)


def _of_list(rng: np.random.Generator, words: Sequence[str]) -> tuple[str, str]:
    """A list, and all of it or one of its words."""
    chosen = [words[place] for place in rng.choice(len(words), rng.integers(*LIST, endpoint=True))]
    whole = str(rng.choice([", ", " "])).join(chosen)
    return whole, whole if rng.random() < 0.5 else str(rng.choice(chosen))


def _of_sentences(rng: np.random.Generator, documents: Sequence[str], copies: float = 0.5) -> Iterator[tuple[str, str]]:
    """In a share of `copies` the answer is a part of the passage, or all of it, each as often; in the others the next sentence."""
    for place in rng.permutation(len(documents)):
        sentences = [" ".join(found.split()) for found in SENTENCE.findall(documents[place])]
        for at in range(0, len(sentences) - PASSAGE, PASSAGE):
            kind = rng.random()
            if kind < 1 - copies:
                yield sentences[at], sentences[at + 1]
            else:
                passage = sentences[at : at + rng.integers(1, PASSAGE, endpoint=True)]
                yield " ".join(passage), str(rng.choice(passage)) if kind < 1 - copies / 2 else " ".join(passage)


def _encoded(
    tokenizer: tokenizers.Tokenizer, pairs: Sequence[tuple[str, str]], length: int
) -> Iterator[packing.Example]:
    start, stop, end = (tokenizer.token_to_id(token) for token in (bpe.QUESTION, bpe.ANSWER, bpe.END))
    asked, told = (tokenizer.encode_batch([pair[i] for pair in pairs], add_special_tokens=False) for i in (0, 1))
    for question, answer in zip(asked, told, strict=True):
        example = packing.Example.of_pair((start, *question.ids, stop), (*answer.ids, end))
        if len(example.ids) <= length:
            yield example
