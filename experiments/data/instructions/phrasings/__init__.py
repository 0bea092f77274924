"""How checkable instructions are put: of each kind TRAINED phrasings that are learned from, and then HELD_OUT that are not, drawn by lot (a hash).

{x} is the input; {w}, {v}, {k}, {n}, {a}, {b} are what the instruction names; {q} is the question about a story. No phrasing is of two
kinds, whatever fills it: a question alone tells its kind and its answer.
"""

import hashlib

from experiments.data.instructions.phrasings.lists import LISTS
from experiments.data.instructions.phrasings.sentences import SENTENCES
from experiments.data.instructions.phrasings.words_and_numbers import WORDS_AND_NUMBERS

TRAINED, HELD_OUT = 20, 4
EVERY = {**LISTS, **SENTENCES, **WORDS_AND_NUMBERS}
PHRASINGS = {
    kind: tuple(sorted(texts, key=lambda text: hashlib.sha256(text.encode()).digest())) for kind, texts in EVERY.items()
}
KINDS = tuple(PHRASINGS)
