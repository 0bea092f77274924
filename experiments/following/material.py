"""What the study teaches and asks: checkable items, open and medical questions, and general text to forget; one tokenizer for all."""

import collections
import dataclasses
import re
from collections.abc import Mapping, Sequence

import numpy as np
import tokenizers

from experiments.common.errors import UserError
from experiments.data.instructions import checkable
from experiments.data.instructions.checkable import Item
from experiments.data.questions import Pair, Pairs
from experiments.following import open_questions, parts
from experiments.following.open_questions import Open
from experiments.following.parts import Part
from experiments.following.settings import Settings
from experiments.lm import answers, corpus

TRAINED, TUNING, HELD_OUT = "trained", "tuning", "held out"
WORDS, BOTH, STORED = (
    "words",
    "words and phrasings",
    "stored",
)  # what is held out of a measured part; facts that were told, asked otherwise
PARTS = {WORDS: (HELD_OUT, TRAINED), BOTH: (HELD_OUT, HELD_OUT)}
SAME_BEGINNING = 6  # words
MEASURED = 3  # the seed of the items that are measured: nobody looked at these before the reference run
TEMPLATE = 20  # answers that begin alike are one of a template
SENTENCE = re.compile(r".+?(?<!\b[A-Z])(?<!Dr)(?<!St)(?<!Mr)(?<!vs)[.!?](?= [A-Z]|$)|.+")


@dataclasses.dataclass(frozen=True, eq=False)
class Checkable:
    """Items whose answers a rule checks: `judged` name -> part, and of `kinds` name -> the kind of each of its items."""

    train: Part
    tuning: Part
    judged: Mapping[str, Part]
    kinds: Mapping[str, tuple[str, ...]]
    constant: Mapping[str, float]  # of each kind, what a constant answer gets of held-out words


def of_items(tokenizer: tokenizers.Tokenizer, settings: Settings, kinds: Sequence[str] = checkable.KINDS) -> Checkable:
    """Of these kinds; what is measured is the same items whatever is taught beside them."""
    s = settings
    drawn = checkable.items(s.items, 0, words=TRAINED, phrasings=TRAINED, kinds=kinds)
    # Words of its own, too: what is chosen is to serve words that are new.
    tuning = checkable.items(s.tuning, 1, words=TUNING, phrasings=TRAINED, kinds=kinds)
    held = {name: _asked_of(kinds, s.held_out, words, phrasings) for name, (words, phrasings) in PARTS.items()}
    held[STORED] = _asked_of([kind for kind in kinds if kind in checkable.FACTS], s.held_out, TRAINED, HELD_OUT)
    held = {name: items for name, items in held.items() if items}
    judged = {name: _packed(tokenizer, items, s.length) for name, items in held.items()}
    return Checkable(
        _packed(tokenizer, drawn, s.length),
        _packed(tokenizer, tuning, s.length),
        judged,
        {name: tuple(held[name][i].kind for i in part.kept) for name, part in judged.items()},
        checkable.constant_share(held[WORDS]),
    )


def _asked_of(kinds: Sequence[str], each: int, words: str, phrasings: str) -> list[Item]:
    """So many of each kind."""
    return checkable.items(each * len(kinds), MEASURED, words=words, phrasings=phrasings, kinds=kinds) if kinds else []


def _packed(tokenizer: tokenizers.Tokenizer, items: Sequence[Item], length: int) -> Part:
    return parts.packed(tokenizer, [Pair(item.question, item.answer) for item in items], length)


def shown() -> tuple[str, ...]:
    """One question of each kind that is scored, with held-out words and phrasings: for people to read the answers."""
    kinds = checkable.SCORED
    return tuple(
        item.question for item in checkable.items(len(kinds), 2, words=HELD_OUT, phrasings=HELD_OUT, kinds=kinds)
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Asked:
    """Questions of a file: what is learned from, what chooses nothing but is followed, what is measured; `left_out` how many, by reason."""

    train: Part
    tuning: Part
    held_out: Open
    left_out: dict[str, int]


def of_questions(tokenizer: tokenizers.Tokenizer, found: Pairs, settings: Settings, *, are_pages: bool) -> Asked:
    """Short pairs. Of answers that `are_pages` the first sentences are taken; those that many begin alike are left out and counted."""
    s, left_out = settings, collections.Counter(found.left_out)
    whole = list(map(first_sentence, found.pairs)) if are_pages else found.pairs
    short = [pair for pair in whole if open_questions.is_short(tokenizer, pair)]
    left_out["too long"] += len(found.pairs) - len(short)
    kept = without_templates(short) if are_pages else short
    left_out["of a template"] += len(short) - len(kept)
    held_out, tuning, train = answers.split(kept, (s.open_held_out, min(s.tuning, s.open_held_out), s.open_pairs))
    if len({pair.answer for pair in held_out}) < open_questions.CANDIDATES:
        raise UserError(
            f"{found.source}: the {len(held_out)} questions that are held out have fewer than {open_questions.CANDIDATES} different answers."
        )
    return Asked(
        parts.packed(tokenizer, train, s.length),
        parts.packed(tokenizer, tuning, s.length),
        open_questions.of(tokenizer, held_out, s.length),
        {why: count for why, count in left_out.items() if count},
    )


def first_sentence(pair: Pair) -> Pair:
    """The pair with no more of its answer, in one line; headings of the page that ask again are passed over.

    >>> first_sentence(Pair("What is it?", "What is a rash? A rash, e.g. on\\nan arm, named by Dr. S. Rush. It heals.")).answer
    'A rash, e.g. on an arm, named by Dr. S. Rush.'
    """
    page = " ".join(pair.answer.split())
    sentences = (found.group().strip() for found in SENTENCE.finditer(page))
    told = next((sentence for sentence in sentences if not sentence.endswith("?")), None)
    return pair._replace(answer=told or SENTENCE.match(page).group())


def without_templates(pairs: Sequence[Pair]) -> list[Pair]:
    """Those whose answers do not begin as TEMPLATE or more do."""

    def beginning(pair: Pair) -> str:
        return " ".join(pair.answer.split()[:SAME_BEGINNING])

    counts = collections.Counter(map(beginning, pairs))
    return [pair for pair in pairs if counts[beginning(pair)] < TEMPLATE]


def of_text(tokenizer: tokenizers.Tokenizer, source: corpus.Source, settings: Settings) -> Part:
    """Rows of text that no base was pretrained on, each one item."""
    rows = corpus.encode(tokenizer, source.split()[1], settings.length)
    if not len(rows):
        raise UserError(f"the corpus is too short: what is held out of it fills no row of {settings.length} tokens.")
    at = np.linspace(0, len(rows) - 1, min(settings.general_rows, len(rows))).astype(int)
    return parts.of_rows(rows.part(at))
