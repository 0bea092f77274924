"""How checkable instructions are put: of each kind TRAINED phrasings that are learned from, and then HELD_OUT that are not.

{x} is the input; {w}, {v}, {k}, {n}, {a}, {b} are what the instruction names; {q} is the question about a story. No phrasing is of two
kinds, whatever fills it: a question alone tells its kind and its answer.
"""

from experiments.data.instructions.phrasings.lists import LISTS
from experiments.data.instructions.phrasings.sentences import SENTENCES
from experiments.data.instructions.phrasings.words_and_numbers import WORDS_AND_NUMBERS

TRAINED, HELD_OUT = 20, 4
PHRASINGS = {**LISTS, **SENTENCES, **WORDS_AND_NUMBERS}
KINDS = tuple(PHRASINGS)
