"""Instructions of our own with exactly one right answer each, made by a seed: what a model follows can be counted.

Kinds that take a list share one distribution of lists, and those that take a sentence one of sentences: the input alone does not say what is
asked. Held out are words, names, places, numbers and pairs of opposites, by their hash, and phrasings.
"""

import hashlib
import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from experiments.data.conversations import Conversation, Conversations, asked
from experiments.data.instructions import words as known
from experiments.data.instructions.phrasings import HELD_OUT, KINDS, PHRASINGS, TRAINED

SYSTEM = "Give only the answer."  # what every conversation begins with, unless told otherwise
SHARE = 0.2  # of the words that is held out
LISTS = ("first", "last", "nth", "longest", "sort", "reverse", "count", "join", "member")
SOURCE = "checkable instructions, made here"


class Item(NamedTuple):
    """`words` are what was drawn for it; `phrasing` is its number among the kind's."""

    kind: str
    phrasing: int
    question: str
    answer: str
    words: tuple[str, ...]


def is_held_out(text: str) -> bool:
    """Whether a word, a name, a number or a pair is kept for measuring.

    >>> 0.15 < sum(map(is_held_out, map(str, range(1000)))) / 1000 < 0.25
    True
    """
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 2**32 < SHARE


class Pool:
    """What the items of one part are made of, and the draws."""

    def __init__(self, rng: random.Random, held_out: bool):
        def part(words: Sequence[str]) -> list[str]:
            return [word for word in words if is_held_out(word) == held_out]

        self.rng = rng
        self.words, self.nouns, self.adjectives = part(known.WORDS), part(known.NOUNS), part(known.ADJECTIVES)
        self.verbs, self.names, self.places = part(known.VERBS), part(known.NAMES), part(known.PLACES)
        self.numbers = [int(text) for text in part([str(n) for n in range(10, 1000)])]
        self.opposites = [pair for pair in known.OPPOSITES if is_held_out(" ".join(pair)) == held_out]

    def list_of(self, kind: str) -> list[str]:
        """3 to 5 words, whose first letters differ; one is longest where that is asked. The lists of all kinds but that are alike."""
        while True:
            words = self.rng.sample(self.words, self.rng.randint(3, 5))
            lengths = sorted(map(len, words))
            if len({word[0] for word in words}) == len(words) and (kind != "longest" or lengths[-1] > lengths[-2]):
                return words

    def sentence(self) -> list[str]:
        """The adjective noun verb(past) the adjective noun, as words."""
        one, other = self.rng.sample(self.nouns, 2)
        first, second = self.rng.sample(self.adjectives, 2)
        return ["The", first, one, self.rng.choice(self.verbs), "the", second, other]


Made = tuple[dict[str, object], str, Sequence[str]]  # what fills a phrasing, the answer, the words that were drawn


def _of_list(pool: Pool, kind: str) -> Made:
    words = pool.list_of(kind)
    fill: dict[str, object] = {"x": ", ".join(words)}
    if kind == "nth":
        place = pool.rng.randrange(1, min(4, len(words)))
        return {**fill, "k": known.ORDINALS[place - 1]}, words[place], words
    if kind == "member":
        is_there = pool.rng.random() < 0.5
        word = pool.rng.choice(words if is_there else [word for word in pool.words if word not in words])
        return {**fill, "w": word}, "yes" if is_there else "no", [*words, word]
    answers = {
        "first": words[0], "last": words[-1], "longest": max(words, key=len), "count": str(len(words)), "join": " and ".join(words),
        "sort": ", ".join(sorted(words)), "reverse": ", ".join(reversed(words)),
    }  # fmt: skip
    return fill, answers[kind], words


def _copy(pool: Pool, kind: str) -> Made:
    words = pool.sentence()
    return {"x": _written(words)}, _written(words), _drawn(words)


def _replace(pool: Pool, kind: str) -> Made:
    words = pool.sentence()
    place = pool.rng.choice((2, 6))  # a noun
    new = pool.rng.choice([word for word in pool.nouns if word not in words])
    changed = [*words[:place], new, *words[place + 1 :]]
    return {"x": _written(words), "w": words[place], "v": new}, _written(changed), [*_drawn(words), new]


def _repeat(pool: Pool, kind: str) -> Made:
    word, count = pool.rng.choice(pool.words), pool.rng.choice(list(known.COUNTS))
    return {"w": word, "n": known.COUNTS[count]}, " ".join([word] * count), [word]


def _plural(pool: Pool, kind: str) -> Made:
    word = pool.rng.choice(pool.nouns)
    return {"w": word}, f"{word}s", [word]


def _opposite(pool: Pool, kind: str) -> Made:
    pair = pool.rng.sample(pool.rng.choice(pool.opposites), 2)
    return {"w": pair[0]}, pair[1], [" ".join(sorted(pair))]


def _upper(pool: Pool, kind: str) -> Made:
    word = pool.rng.choice(pool.words)
    return {"w": word}, word.upper(), [word]


def _larger(pool: Pool, kind: str) -> Made:
    pair = pool.rng.sample(pool.numbers, 2)
    return {"a": pair[0], "b": pair[1]}, str(max(pair)), list(map(str, pair))


def _after(pool: Pool, kind: str) -> Made:
    number = pool.rng.choice(pool.numbers)
    return {"a": number}, str(number + 1), [str(number)]


def _story(pool: Pool, kind: str) -> Made:
    giver, taker = pool.rng.sample(pool.names, 2)
    thing, place = pool.rng.choice(pool.nouns), pool.rng.choice(pool.places)
    past = pool.rng.choice(list(known.GIVING))
    do = known.GIVING[past]
    question, answer = pool.rng.choice((
        (f"Who {past} the {thing}?", giver), (f"What did {giver} {do}?", f"the {thing}"),
        (f"Where did {giver} {do} it?", f"in the {place}"), (f"To whom did {giver} {do} it?", taker),
    ))  # fmt: skip
    told = f"{giver} {past} the {thing} to {taker} in the {place}."
    return {"x": told, "q": question}, answer, [giver, taker, thing, place]


MAKERS: dict[str, Callable[[Pool, str], Made]] = {
    **dict.fromkeys(LISTS, _of_list), "copy": _copy, "replace": _replace, "repeat": _repeat, "plural": _plural, "opposite": _opposite,
    "upper": _upper, "larger": _larger, "after": _after, "story": _story,
}  # fmt: skip
TRIES = 50  # to find a question that is new; a kind that has run out of them then gets fewer


def _written(words: Sequence[str]) -> str:
    return " ".join(words) + "."


def _drawn(words: Sequence[str]) -> list[str]:
    """Without the articles, which stand in every sentence."""
    return [word for word in words if word.lower() != "the"]


def items(count: int, seed: int, *, held_out: bool) -> list[Item]:
    """So many different items, the kinds in turn.

    Args:
      held_out: of words and phrasings that the others never have.
    """
    pool = Pool(random.Random(f"{seed} {held_out}"), held_out)
    numbers = range(TRAINED, TRAINED + HELD_OUT) if held_out else range(TRAINED)
    found: dict[str, Item] = {}
    turn = 0
    while len(found) < count:
        kind = KINDS[turn % len(KINDS)]
        turn += 1
        for _ in range(TRIES):
            fill, answer, words = MAKERS[kind](pool, kind)
            phrasing = pool.rng.choice(numbers)
            question = PHRASINGS[kind][phrasing].format(**fill)
            if question not in found:
                found[question] = Item(kind, phrasing, question, answer, tuple(words))
                break
    return list(found.values())


def conversations(train: int, held_out: int, seed: int) -> Conversations:
    """Items to learn from, shuffled, and others to measure on, the kinds in turn."""
    made = items(train, seed, held_out=False)
    random.Random(seed).shuffle(made)
    return Conversations(tuple(map(_asked, made)), {}, SOURCE, tuple(map(_asked, items(held_out, seed, held_out=True))))


def _asked(item: Item) -> Conversation:
    return asked(item.question, item.answer, item.kind)
