"""Checkable instructions: is what is held out never seen, and are they the same for a seed?"""

import collections
import doctest
import hashlib
import itertools
import json
import re

import pytest

from experiments.common.errors import UserError
from experiments.data.instructions import checkable, more_words, pool
from experiments.data.instructions import words as known
from experiments.data.instructions.phrasings import HELD_OUT, KINDS, TRAINED
from tests.experiments import rule_follower
from tests.experiments.checkable_items import BOTH, EVERY, ITEMS, READ, by_kind, parts

TRAIN = ITEMS[pool.TRAINED, pool.TRAINED]


# Held out.


def drawn(item: checkable.Item) -> set[str]:
    """By another route than `item.words`: the words that stand in a phrasing's places, as they were before a plural or a capital."""
    given = {place: text for place, text in READ[item.question][0].given.items() if place not in "kn"}
    found = set()
    for word in re.findall("[A-Za-z]+|[0-9]+", " ".join(given.values())):
        plain = word if word in known.NAMES else word.lower()
        found.add(plain[:-1] if plain.endswith("s") and plain[:-1] in known.BEINGS else plain)
    return found - {*known.GLUE, "who", "what", "where", "whom", "did", "it"}


FEW = dict.fromkeys(pool.PARTS, set()) | {
    pool.TUNING: {word for word in (*known.TIMES, *known.MANNERS, *known.DETERMINERS, *known.PREPOSITIONS) if pool.part(word) == pool.TRAINED}
}  # fmt: skip


@parts
def test_all_words_are_of_their_part(part):
    for item in (item for item in ITEMS[part] if item.kind != "opposite"):
        assert all(pool.part(word) == part[0] for word in drawn(item) - FEW[part[0]]), item
        assert drawn(item) == set(item.words) - {*known.GLUE}, item


def test_a_story_of_held_out_words_has_none_that_was_trained_on():
    def of_stories(part: str) -> set[str]:
        made = [*ITEMS[part, pool.TRAINED], *ITEMS[part, pool.HELD_OUT]]
        return {word for item in made if item.kind == "story" for word in drawn(item)}

    for one, other in itertools.combinations(map(of_stories, pool.PARTS), 2):
        for words in (known.NAMES, known.PLACES, known.THINGS):
            assert one & set(words) and other & set(words) and not one & other & set(words)


def test_pairs_of_opposites_are_held_out_whole():
    found = {
        words: {item.words for item in ITEMS[words, pool.TRAINED] if item.kind == "opposite"} for words in pool.PARTS
    }
    assert all(found.values()) and not any(one & other for one, other in itertools.combinations(found.values(), 2))
    for words, pairs in found.items():
        assert all(pool.part(" ".join(pair)) == words for pair in known.OPPOSITES if (" ".join(sorted(pair)),) in pairs)


@parts
def test_phrasings_are_of_their_part(part):
    numbers = range(TRAINED) if part[1] == pool.TRAINED else range(TRAINED, TRAINED + HELD_OUT)
    assert {item.phrasing for item in ITEMS[part]} == set(numbers)
    found = {(item.kind, item.phrasing) for item in ITEMS[part]}
    assert found <= set(itertools.product(KINDS, numbers)) and len(found) > 0.9 * len(KINDS) * len(numbers)


def test_no_question_is_of_two_parts():
    assert len({item.question for item in EVERY}) == len(EVERY)


def test_numbers_are_small():
    for item in EVERY:
        numbers = [int(text) for text in re.findall("[0-9]+", item.question)]
        if item.kind in ("larger", "compare"):
            assert len(set(numbers)) == 2 and all(10 <= number <= 99 for number in numbers)
        if item.kind == "after":
            assert len(numbers) == 1 and 10 <= numbers[0] <= 199
        assert item.kind != "upper" or len(item.answer) <= 6


# By a seed.


def test_they_are_the_same_on_every_python():
    """If what is made was changed on purpose: put the new checksum here, and say that numbers of before are of another generator."""
    told = json.dumps([checkable.items(230, 0, words=words, phrasings=phrasings) for words, phrasings in BOTH])
    checksum = "766791672f65a81b54c180c32523ea16525c2bb599eb2c703c80347b9f578755"
    assert hashlib.sha256(told.encode()).hexdigest() == checksum


def test_another_seed_makes_others():
    other = checkable.items(1150, 1, words=pool.TRAINED, phrasings=pool.TRAINED)
    assert len({item.question for item in other} & {item.question for item in TRAIN}) < 100


def test_a_kinds_items_depend_neither_on_their_number_nor_on_other_kinds():
    few = checkable.items(50, 0, words=pool.TRAINED, phrasings=pool.TRAINED)
    assert few == TRAIN[:50] and [item.kind for item in few[:23]] == list(KINDS)
    alone = checkable.items(50, 0, words=pool.TRAINED, phrasings=pool.TRAINED, kinds=["story"])
    assert alone == by_kind(TRAIN)["story"]


def test_a_kind_that_has_run_out_leaves_its_turn():
    made = by_kind(
        checkable.items(4000, 0, words=pool.HELD_OUT, phrasings=pool.HELD_OUT, kinds=["after", "first", "opposite"])
    )
    numbers = [n for n in pool.NUMBERS if pool.part(str(n)) == pool.HELD_OUT]
    pairs = [pair for pair in known.OPPOSITES if pool.part(" ".join(pair)) == pool.HELD_OUT]
    for kind, most in (("after", len(numbers)), ("opposite", 2 * len(pairs))):
        assert 0.98 * HELD_OUT * most <= len(made[kind]) <= HELD_OUT * most
    assert sum(map(len, made.values())) == 4000
    assert min(len(numbers), 2 * len(pairs)) * HELD_OUT >= 100  # so many a kind are measured


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"words": "held"}, 'words="held" is none of trained, tuning, held out'),
        ({"phrasings": "all"}, 'phrasings="all" is none of trained, held out'),
        ({"kinds": ["first", "second"]}, "no kind is called second; there are first, last, "),
        ({"kinds": ["first", "first"]}, "a kind is named twice in first, first; name each once"),
        ({"kinds": ["after"]}, "5,000 were asked for, but of after with held out words and trained phrasings only 740"),
        ({"kinds": []}, "5,000 were asked for, but of no kind"),
    ],
)
def test_what_cannot_be_made_is_refused(changed, said):
    with pytest.raises(UserError, match=re.escape(said)):
        checkable.items(**({"count": 5000, "seed": 0, "words": pool.HELD_OUT, "phrasings": pool.TRAINED} | changed))


def test_conversations_are_of_both_parts():
    data = checkable.conversations(92, 46, 3)
    assert (len(data.found), len(data.held_out)) == (92, 46)
    assert collections.Counter(one.kind for one in data.held_out) == dict.fromkeys(KINDS, 2)
    assert [(one.question, one.answer) for one in data.held_out] == [
        (item.question, item.answer) for item in checkable.items(46, 3, words=pool.HELD_OUT, phrasings=pool.HELD_OUT)
    ]
    assert data.checksum != checkable.conversations(92, 46, 4).checksum
    assert all(read.phrasing < TRAINED for one in data.found for read in rule_follower.readings(one.question))


@pytest.mark.parametrize("module", [checkable, pool, more_words], ids=lambda module: module.__name__)
def test_examples_run(module):
    result = doctest.testmod(module)
    assert result.attempted and not result.failed
