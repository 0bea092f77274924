"""Instructions of our own with exactly one right answer each, made by a seed: what a model follows can be counted.

Asked is about a list of words (10 kinds: `first` to `drop`), a sentence (6: `copy` to `story`), a word (4: `repeat` to `upper`) or numbers
(3). All lists are of one distribution and all sentences of one, a story's among them: the input alone does not say what is asked.

Held out are words and phrasings, each without the other or both:

- *words*, a fifth by their hash, and a tenth for tuning: of lists and sentences, names, places, numbers, and pairs of opposites. What holds a
  sentence together ("the", "in", "gave") is of all parts, as are its templates.
- *phrasings*, four of each kind's twenty-four, drawn by lot.

A pair of opposites that is held out was never told: what is stored of those that were shows with trained words and held-out phrasings.
"""

import collections
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from experiments.common.errors import UserError
from experiments.data.conversations import Conversation, Conversations, asked
from experiments.data.instructions import phrasings as known
from experiments.data.instructions.makers import MAKERS
from experiments.data.instructions.phrasings import KINDS, PHRASINGS
from experiments.data.instructions.pool import HELD_OUT, PARTS, TRAINED, Pool

SYSTEM = "Give only the answer."  # what every conversation begins with, unless told otherwise
SOURCE = "checkable instructions, made here"
TRIES = 2000  # to find a question that is new: then the kind has run out
# What S4 scores, said before its runs: pointing, copying, and rules of one step, which a constant or a coin cannot answer.
SCORED = (
    "first", "last", "nth", "longest", "count", "copy", "s_first", "s_last", "repeat", "plural", "larger", "after", "story",
)  # fmt: skip
CHANCE = ("member", "s_member", "compare")  # two answers: half are right without a look at the input
FACTS = ("opposite",)  # stored, not read off the input: told apart from following
HARD = (
    "sort",
    "reverse",
    "join",
    "drop",
    "replace",
    "upper",
)  # copying in another order or with a change, spelling: no model of 1 M did them


class Item(NamedTuple):
    """`words` are what was drawn for it; `phrasing` is its number among the kind's."""

    kind: str
    phrasing: int
    question: str
    answer: str
    words: tuple[str, ...]


def items(count: int, seed: int, *, words: str, phrasings: str, kinds: Sequence[str] = KINDS) -> list[Item]:
    """So many different items, the kinds in turn; a kind that has run out of new ones leaves its turn to the others.

    A kind's items do not depend on the other kinds, nor on how many are asked for: the first of many are those of few. Two seeds may give the
    same question.

    Args:
      words, phrasings: "trained", or "held out", which the trained ones never have; words also "tuning", which neither has.

    Raises:
      UserError: for another part, an unknown or a repeated kind, or where all kinds have run out.

    >>> items(1, 0, words="trained", phrasings="held out", kinds=["larger"])
    [Item(kind='larger', phrasing=21, question='From 12 and 14 take the larger.', answer='14', words=('12', '14'))]
    """
    _check(words, phrasings, kinds)
    sources = {kind: _of_kind(kind, seed, words, phrasings) for kind in kinds}
    found: list[Item] = []
    while sources and len(found) < count:
        turn = {kind: next(source, None) for kind, source in list(sources.items())[: count - len(found)]}
        found += filter(None, turn.values())
        sources = {kind: source for kind, source in sources.items() if turn.get(kind, source) is not None}
    if len(found) < count:
        raise UserError(
            f"items: {count:,} were asked for, but of {', '.join(kinds) or 'no kind'} with {words} words and {phrasings} phrasings "
            f"only {len(found):,} different ones were found; ask for fewer or for more kinds."
        )
    return found


def constant_share(of: Iterable[Item]) -> dict[str, float]:
    """Of each kind, the share of its commonest answer: what a model reaches that does not look at the input.

    >>> made = items(40, 0, words="trained", phrasings="trained", kinds=["compare", "after"])
    >>> constant_share(made)
    {'compare': 0.6, 'after': 0.1}
    """
    answers: dict[str, list[str]] = {}
    for item in of:
        answers.setdefault(item.kind, []).append(item.answer)
    return {kind: max(collections.Counter(said).values()) / len(said) for kind, said in answers.items()}


def conversations(train: int, held_out: int, seed: int) -> Conversations:
    """Items to learn from, shuffled, and others of held-out words and phrasings to measure on, the kinds in turn.

    >>> conversations(2, 1, 0).held_out[0].kind
    'first'
    """
    made = items(train, seed, words=TRAINED, phrasings=TRAINED)
    random.Random(seed).shuffle(made)
    held = items(held_out, seed, words=HELD_OUT, phrasings=HELD_OUT)
    return Conversations(tuple(map(_asked, made)), {}, SOURCE, tuple(map(_asked, held)))


def _of_kind(kind: str, seed: int, words: str, phrasings: str) -> Iterator[Item]:
    """Different items, until none that is new is found."""
    pool = Pool(random.Random(f"{seed}, {kind}, {words} words, {phrasings} phrasings"), words)
    numbers = range(known.TRAINED) if phrasings == TRAINED else range(known.TRAINED, known.TRAINED + known.HELD_OUT)
    found: set[str] = set()
    tries = 0
    while tries < TRIES:
        fill, answer, drawn = MAKERS[kind](pool, kind)
        phrasing = pool.rng.choice(numbers)
        question = PHRASINGS[kind][phrasing].format(**fill)
        tries += 1
        if question not in found:
            found.add(question)
            tries = 0
            yield Item(kind, phrasing, question, answer, tuple(drawn))


def _check(words: str, phrasings: str, kinds: Sequence[str]) -> None:
    for name, part, parts in (("words", words, PARTS), ("phrasings", phrasings, (TRAINED, HELD_OUT))):
        if part not in parts:
            raise UserError(f'items: {name}="{part}" is none of {", ".join(parts)}.')
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise UserError(f"items: no kind is called {', '.join(unknown)}; there are {', '.join(KINDS)}.")
    if len(set(kinds)) < len(kinds):
        raise UserError(f"items: a kind is named twice in {', '.join(kinds)}; name each once.")


def _asked(item: Item) -> Conversation:
    return asked(item.question, item.answer, item.kind)
