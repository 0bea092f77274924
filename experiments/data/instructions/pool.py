"""What the items of one part are made of: words that the other part never has, lists and sentences of them."""

import functools
import hashlib
import random
from collections.abc import Sequence
from typing import NamedTuple

from experiments.data.instructions import words as known

TRAINED, TUNING, HELD_OUT = PARTS = ("trained", "tuning", "held out")
SHARES = {HELD_OUT: 0.2, TUNING: 0.1}  # of the words
NUMBERS = range(10, 200)
LARGEST = 99  # of two numbers that are compared: three digits are hard for tiny models
SEPARATORS, SEPARATED = (", ", " "), (7, 3)  # of a list's words, and how often each
SHORTEST, LONGEST = 3, 6  # words of a list

# In capitals what is drawn. A template has a BEING or a THING in the singular, which can be replaced; no two of its drawn words are equal.
STORY = "NAME GAVE the THING to NAME in the PLACE"
TEMPLATES = (
    "DETERMINER TRAIT BEING DONE the LOOK THING",
    "NAME DONE the LOOK THING in the PLACE",
    "TIME NAME DONE a LOOK THING",
    "NAME and NAME DONE the THING near the PLACE",
    "NAME DONE the THING and the THING",
    "TRAIT BEINGS DONE the THING in the PLACE",
    "DETERMINER BEING in the PLACE was TRAIT",
    "NAME DONE the THING MANNER",
    "TIME the BEING MET NAME",
    "PREPOSITION the PLACE NAME DONE a LOOK THING",
    "DETERMINER BEING and the BEING MET NAME",
    "MANNER NAME DONE the THING",
    STORY,
)


def part(text: str) -> str:
    """Where a word, a name, a number or a pair belongs: to what is learned from, to what rates are chosen by, or to what is measured.

    >>> [sum(part(str(number)) == name for number in range(1000)) // 50 for name in PARTS]
    [13, 2, 4]
    """
    place = int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 2**32
    return HELD_OUT if place < SHARES[HELD_OUT] else TUNING if place < sum(SHARES.values()) else TRAINED


@functools.cache
def part_of(words: tuple[str, ...], name: str) -> tuple[str, ...]:
    """Those of a part.

    >>> part_of(("1", "2", "39"), HELD_OUT)
    ('39',)
    """
    return tuple(word for word in words if part(word) == name)


class Sentence(NamedTuple):
    """`words` as they are written; `drawn` what each was before (no capital, no plural), "" for glue; `slots` of the template."""

    words: tuple[str, ...]
    drawn: tuple[str, ...]
    slots: tuple[str, ...]

    @property
    def text(self) -> str:
        """With a full stop.

        >>> Sentence(("Ada", "slept"), ("Ada", ""), ("NAME", "slept")).text
        'Ada slept.'
        """
        return " ".join(self.words) + "."

    @property
    def content(self) -> tuple[str, ...]:
        """All that was drawn.

        >>> Sentence(("Ada", "slept"), ("Ada", ""), ("NAME", "slept")).content
        ('Ada',)
        """
        return tuple(filter(None, self.drawn))


class Pool:
    """The words of one part, and the draws.

    >>> Pool(random.Random(0), TRAINED).list_of()
    ['acute', 'sweat', 'witnessed', 'nature', 'consume', 'dry']
    """

    def __init__(self, rng: random.Random, name: str):
        def own(words: Sequence[str]) -> tuple[str, ...]:
            return part_of(tuple(words), name)

        def few(words: Sequence[str]) -> tuple[str, ...]:
            """Too few for a tuning part of their own."""
            return part_of(tuple(words), TRAINED if name == TUNING else name)

        self.rng, self.words, self.nouns = rng, own(known.WORDS), own(known.NOUNS)
        self.numbers = tuple(map(int, own([str(n) for n in NUMBERS])))
        self.opposites = [pair for pair in known.OPPOSITES if part(" ".join(pair)) == name]
        self.slots = {
            "BEING": own(known.BEINGS), "BEINGS": own(known.BEINGS), "THING": own(known.THINGS), "TRAIT": own(known.TRAITS),
            "LOOK": own(known.LOOKS), "DONE": own(known.DONE), "MET": own(known.MET), "NAME": own(known.NAMES), "PLACE": own(known.PLACES),
            "TIME": few(known.TIMES), "MANNER": few(known.MANNERS), "GAVE": tuple(known.GIVING),
            "DETERMINER": ("a", "the", *few(known.DETERMINERS)), "PREPOSITION": ("in", "near", *few(known.PREPOSITIONS)),
        }  # fmt: skip

    def list_of(self) -> list[str]:
        """3 to 6 words, one the longest, no two of one first letter: every kind's lists are of this one distribution."""
        size = self.rng.randint(SHORTEST, LONGEST)
        while True:
            words = self.rng.sample(self.words, size)
            lengths = sorted(map(len, words))
            if len({word[0] for word in words}) == size and lengths[-1] > lengths[-2]:
                return words

    def separator(self) -> str:
        """What stands between the words of a list."""
        return self.rng.choices(SEPARATORS, SEPARATED)[0]

    def pair(self) -> tuple[int, int]:
        """Two numbers in either order, the larger one as often any as another: no number is a good guess."""
        numbers = [number for number in self.numbers if number <= LARGEST]
        place = self.rng.randrange(1, len(numbers))
        one, other = self.rng.sample([numbers[place], numbers[self.rng.randrange(place)]], 2)
        return one, other

    def sentence(self, template: str | None = None) -> Sentence:
        """Of any template, each as often, unless one is given."""
        slots = tuple((template or self.rng.choice(TEMPLATES)).split())
        words: list[str] = []
        drawn: list[str] = []
        for slot in slots:
            word = self._other(self.slots[slot], drawn) if slot in self.slots else slot
            drawn.append("" if word in known.GLUE else word)
            words.append(f"{word}s" if slot == "BEINGS" else word)
        words = [_article(word, after) for word, after in zip(words, [*words[1:], ""], strict=True)]
        return Sentence((words[0][0].upper() + words[0][1:], *words[1:]), tuple(drawn), slots)

    def _other(self, words: Sequence[str], than: Sequence[str]) -> str:
        return self.rng.choice([word for word in words if word not in than])


def _article(word: str, after: str) -> str:
    return "an" if word == "a" and begins_with_a_vowel(after) else word


def begins_with_a_vowel(word: str) -> bool:
    """So that its article is "an"; no noun here sounds otherwise than it is written.

    >>> begins_with_a_vowel("apple")
    True
    """
    return word[0] in "aeiou"
