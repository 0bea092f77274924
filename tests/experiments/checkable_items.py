"""Checkable items of every part, and what can be read of their questions, for the tests."""

import collections
import itertools

import pytest

from experiments.data.instructions import checkable, pool
from tests.experiments import rule_follower

BOTH = list(itertools.product(pool.PARTS, (pool.TRAINED, pool.HELD_OUT)))  # of words, of phrasings
ITEMS = {(words, phrasings): checkable.items(1150, 0, words=words, phrasings=phrasings) for words, phrasings in BOTH}
READ = {item.question: rule_follower.readings(item.question) for made in ITEMS.values() for item in made}
EVERY = [item for made in ITEMS.values() for item in made]
parts = pytest.mark.parametrize(
    "part", BOTH, ids=[f"{words} words, {phrasings} phrasings" for words, phrasings in BOTH]
)


def by_kind(made: list[checkable.Item]) -> dict[str, list[checkable.Item]]:
    found = collections.defaultdict(list)
    for item in made:
        found[item.kind].append(item)
    return found
