"""Checkable instructions: is the one right answer right, and does no answer do well without the question?"""

import collections
import itertools
import random
import re
import statistics

from experiments.data.instructions import checkable, common_words, more_words, pool
from experiments.data.instructions import words as known
from experiments.data.instructions.phrasings import HELD_OUT, KINDS, PHRASINGS, TRAINED
from experiments.data.instructions.phrasings.lists import LISTS
from tests.experiments import rule_follower
from tests.experiments.checkable_items import EVERY, ITEMS, READ, by_kind, parts

POOLS = ("BEINGS", "THINGS", "TRAITS", "LOOKS", "DONE", "MET", "NAMES", "PLACES", "TIMES", "MANNERS", "WORDS")
OF_SENTENCE = ("copy", "s_first", "s_last", "s_member", "replace")


def inputs(kind: str) -> list[str]:
    """The lists or sentences of a kind."""
    return [READ[item.question][0].given["x"] for item in EVERY if item.kind == kind]


# What there is.


def test_every_kind_is_in_one_group_and_has_its_phrasings():
    groups = (checkable.SCORED, checkable.CHANCE, checkable.FACTS, checkable.HARD)
    assert sorted(itertools.chain(*groups)) == sorted(KINDS) and [len(group) for group in groups] == [13, 3, 1, 6]
    assert all(len(phrasings) == TRAINED + HELD_OUT == 24 for phrasings in PHRASINGS.values())


def test_no_two_phrasings_are_alike():
    every = [text.lower() for phrasings in PHRASINGS.values() for text in phrasings]
    frames = collections.Counter(re.sub(r"\W+", " ", re.sub(r"\{[wvab]\}", "_", text)) for text in every)
    assert [text for text, count in frames.items() if count > 1] == []


def test_no_word_is_there_twice_and_none_is_said_in_an_instruction():
    phrasings = re.sub(r"\{.\}", " ", " ".join(itertools.chain(*PHRASINGS.values()))).lower()
    spoken = {
        *re.findall("[a-z]+", phrasings),
        "who",
        "what",
        "where",
        "whom",
        "did",
        "it",
        *known.GLUE,
        *known.ORDINALS,
        *known.COUNTS.values(),
    }
    for words in [getattr(known, name) for name in POOLS] + [
        more_words.ACTS,
        more_words.MATTERS,
        more_words.OTHERS,
        common_words.COMMON,
    ]:
        assert len(set(words)) == len(words)
        assert spoken.isdisjoint(word.lower() for word in words)
    of_lists = (
        known.NOUNS,
        known.TRAITS,
        known.LOOKS,
        more_words.ACTS,
        more_words.MATTERS,
        more_words.OTHERS,
        common_words.COMMON,
    )
    assert len(known.WORDS) == sum(map(len, of_lists))
    assert {*known.WORDS, *known.PLACES}.isdisjoint(map(str.lower, known.NAMES))


def test_there_are_enough_words_and_of_each_some_are_held_out():
    assert len(known.WORDS) >= 1500 and all(re.fullmatch("[a-z]{3,9}", word) for word in known.WORDS)
    assert len(known.NOUNS) >= 300 and len(known.NAMES) >= 60 and len(known.PLACES) >= 60 and len(pool.TEMPLATES) >= 8
    for part in pool.PARTS:
        slots = pool.Pool(random.Random(0), part).slots
        assert all(len(words) >= 4 for words in slots.values()), {slot: len(words) for slot, words in slots.items()}
        assert len(slots["NAME"]) >= 8 and len(slots["PLACE"]) >= 10 and len(slots["THING"]) >= 40


def test_nouns_have_a_plural_in_s_and_sound_as_they_are_written():
    irregular = re.compile(".*([sxz]|[cs]h|[^aeiou]y|[^aeo]o|[^oef]f|[^f]fe|man|child|foot|tooth|goose|mouse)")
    assert {word for word in known.NOUNS if irregular.fullmatch(word)} <= {"piano", "radio"}
    described = (*known.NOUNS, *known.TRAITS, *known.LOOKS)
    assert [word for word in described if re.match("uni|use|usu|eu|ewe|ho(ur|n[eo])|heir|one", word)] == []


def test_a_word_has_one_opposite():
    every = [word for pair in known.OPPOSITES for word in pair]
    assert len(set(every)) == len(every) and all(len(pair) == 2 for pair in known.OPPOSITES)


# One right answer.


@parts
def test_who_follows_the_rules_is_always_right(part):
    wrong = [item for item in ITEMS[part] if rule_follower.oracle(item.question) != item.answer]
    assert wrong == [] and {item.kind for item in ITEMS[part]} == set(KINDS)


def test_a_question_is_of_one_kind_and_one_phrasing():
    for item in EVERY:
        assert [(read.kind, read.phrasing) for read in READ[item.question]] == [(item.kind, item.phrasing)], item


@parts
def test_answers_of_other_items_are_wrong(part):
    shares = {}
    for kind, of in by_kind(ITEMS[part]).items():
        right, rng = [(rule_follower.oracle(item.question), item.answer) for item in of], random.Random(kind)
        orders = [rng.sample(right, len(right)) for _ in range(20)]
        pairs = [(one, other) for order in orders for (one, _), (_, other) in zip(order, order[1:], strict=False)]
        shares[kind] = statistics.mean(one == other for one, other in pairs)
    assert statistics.mean(shares[kind] for kind in checkable.SCORED) < 0.05, shares
    assert all(0.4 < shares[kind] < 0.6 for kind in checkable.CHANCE), shares
    assert 0.2 < shares["count"] < 0.35, shares  # four answers
    assert all(share < 0.12 for kind, share in shares.items() if kind not in ("count", *checkable.CHANCE)), shares


@parts
def test_no_constant_answer_does_well(part):
    shares = checkable.constant_share(ITEMS[part])
    assert list(shares) == list(KINDS)
    assert statistics.mean(shares[kind] for kind in checkable.SCORED) < 0.15, shares
    assert all(share < 0.2 for kind, share in shares.items() if kind not in ("count", *checkable.CHANCE)), shares
    assert shares["count"] < 0.45 and all(0.5 <= shares[kind] < 0.75 for kind in checkable.CHANCE), shares
    (_, most) = collections.Counter(item.answer for item in ITEMS[part]).most_common(1)[0]
    assert most / len(ITEMS[part]) < 0.06


def test_the_share_of_the_commonest_answer():
    made = [
        checkable.Item(kind, 0, "", answer, ()) for kind, answer in (("a", "x"), ("a", "y"), ("a", "x"), ("b", "x"))
    ]
    assert checkable.constant_share(made) == {"a": 2 / 3, "b": 1.0}


# The input alone does not say what is asked.


def test_all_kinds_have_the_same_lists():
    for kind in LISTS:
        found = [re.findall("[a-z]+", text) for text in inputs(kind)]
        assert all(len({word[0] for word in words}) == len(words) for words in found)
        assert all(sorted(map(len, words))[-1] > sorted(map(len, words))[-2] for words in found)
        sizes = collections.Counter(map(len, found))
        assert sorted(sizes) == [3, 4, 5, 6] and min(sizes.values()) > 0.1 * len(found)
        assert 0.55 < statistics.mean("," in text for text in inputs(kind)) < 0.85


def test_all_kinds_have_the_same_sentences():
    def ends(texts: list[str]) -> tuple[float, float, float]:
        """Shares of sentences that begin with a name, that end with one, and that have "gave ... to"."""
        words = [re.findall("[A-Za-z]+", text) for text in texts]
        first, last = (statistics.mean(one[place] in known.NAMES for one in words) for place in (0, -1))
        return first, last, statistics.mean(one[1] in known.GIVING for one in words)

    shares = {kind: ends(inputs(kind)) for kind in OF_SENTENCE}
    for values in zip(*shares.values(), strict=True):
        assert max(values) - min(values) < 0.17, shares
    assert all(0.01 < gave < 0.25 for *_, gave in shares.values())  # a story's are among them
    assert all(5 <= text.count(" ") + 1 <= 9 for kind in OF_SENTENCE for text in inputs(kind))


def test_a_word_that_is_asked_for_is_neither_glue_nor_the_first():
    for item in (item for item in EVERY if item.kind == "s_member"):
        given = READ[item.question][0].given
        assert given["w"] not in known.GLUE and given["x"].split()[0] != given["w"]


def test_what_is_replaced_is_there_once_and_its_article_still_fits():
    for item in (item for item in EVERY if item.kind == "replace"):
        given = READ[item.question][0].given
        in_sentence = collections.Counter(re.findall("[A-Za-z]+", given["x"]))
        assert in_sentence[given["w"]] == 1 and in_sentence[given["v"]] == 0
        assert not re.search(r"\b[Aa] [aeiou]|\b[Aa]n [^aeiou]", item.answer), item
