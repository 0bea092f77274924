"""Checkable instructions: is the one right answer right, is what is held out never seen, and does no constant answer do well?"""

import collections
import re

import pytest

from experiments.data.instructions import checkable
from experiments.data.instructions import words as checkable_words
from experiments.data.instructions.phrasings import HELD_OUT, KINDS, PHRASINGS, TRAINED

TRAIN, HELD = checkable.items(1500, 0, held_out=False), checkable.items(400, 0, held_out=True)
ORDINALS = {"second": 1, "third": 2, "fourth": 3}
LISTED = re.compile(r"[a-z]+(?:, [a-z]+)+")
SENTENCE = re.compile(r"The [a-z]+ [a-z]+ [a-z]+ the [a-z]+ [a-z]+\.")


def test_every_kind_has_its_phrasings_each_its_own():
    assert len(KINDS) == 18
    every = [text for phrasings in PHRASINGS.values() for text in phrasings]
    assert all(len(phrasings) == TRAINED + HELD_OUT for phrasings in PHRASINGS.values())
    assert len(set(every)) == len(every)


def test_what_is_held_out_is_never_trained_on():
    words, held_words = ({word for item in part for word in item.words} for part in (TRAIN, HELD))
    assert not words & held_words and len(held_words) > 100
    phrasings, held = ({(item.kind, item.phrasing) for item in part} for part in (TRAIN, HELD))
    assert not phrasings & held
    assert phrasings | held == {(kind, i) for kind in KINDS for i in range(TRAINED + HELD_OUT)}
    assert not {item.question for item in TRAIN} & {item.question for item in HELD}


def test_the_words_drawn_are_those_in_the_question_and_the_answer():
    """By another route: every word of a held-out item that any list knows, and that is not of its phrasing, is held out."""
    known = {*checkable_words.WORDS, *checkable_words.VERBS, *checkable_words.NAMES, *checkable_words.PLACES}
    for item in HELD:
        if item.kind in ("opposite", "plural", "upper"):
            continue
        glue = {*re.findall(r"\w+", PHRASINGS[item.kind][item.phrasing]), *checkable_words.GIVING.values()}
        said = (set(re.findall(r"[A-Za-z]+", item.question)) & known) - glue
        assert all(map(checkable.is_held_out, said)), (item, said)


def test_they_are_the_same_for_a_seed_and_others_for_another():
    assert checkable.items(1500, 0, held_out=False) == TRAIN
    other = checkable.items(1500, 1, held_out=False)
    assert len({item.question for item in other} & {item.question for item in TRAIN}) < 300
    data = checkable.conversations(90, 36, 3)
    assert (len(data.found), len(data.held_out)) == (90, 36)
    assert collections.Counter(one.kind for one in data.held_out) == dict.fromkeys(KINDS, 2)
    assert data.checksum != checkable.conversations(90, 36, 4).checksum


@pytest.mark.parametrize("part", [TRAIN, HELD], ids=["train", "held out"])
def test_no_constant_answer_does_well(part):
    (_, most) = collections.Counter(item.answer for item in part).most_common(1)[0]
    assert most / len(part) < 0.05
    by_kind = collections.defaultdict(list)
    for item in part:
        by_kind[item.kind].append(item.answer)
    shares = {kind: collections.Counter(found).most_common(1)[0][1] / len(found) for kind, found in by_kind.items()}
    assert all(share < 0.2 for kind, share in shares.items() if kind not in ("member", "count")), shares
    assert shares["member"] < 0.75 and shares["count"] < 0.6  # two answers; three


def test_answers_are_short():
    assert max(len(item.answer.split()) for item in TRAIN + HELD) <= 9


def words_of(item) -> list[str]:
    """The list in a question, found by its commas."""
    (found,) = [text for text in LISTED.findall(item.question) if text.count(", ") >= 2]
    return found.split(", ")


def sentence_of(item) -> str:
    (found,) = SENTENCE.findall(item.question)
    return found


def told(item) -> str:
    """The answer to a story's question, from its sentence alone."""
    giver, past, thing, taker, place = re.search(
        r"(\w+) (\w+) the (\w+) to (\w+) in the (\w+)\.", item.question
    ).groups()
    rest = item.question.replace(f"{giver} {past} the {thing} to {taker} in the {place}.", "")
    if "To whom" in rest:
        return taker
    if "Where" in rest:
        return f"in the {place}"
    return giver if "Who " in rest else f"the {thing}"


CHECKS = {
    "first": lambda item: words_of(item)[0],
    "last": lambda item: words_of(item)[-1],
    "nth": lambda item: words_of(item)[next(ORDINALS[word] for word in ORDINALS if word in item.question)],
    "longest": lambda item: sorted(words_of(item), key=lambda word: -len(word))[0],
    "sort": lambda item: ", ".join(sorted(words_of(item))),
    "reverse": lambda item: ", ".join(words_of(item)[::-1]),
    "count": lambda item: str(len(words_of(item))),
    "join": lambda item: " and ".join(words_of(item)),
    "copy": sentence_of,
    "repeat": lambda item: " ".join(
        [item.words[0]] * next(n for n, text in checkable_words.COUNTS.items() if f"{text} " in item.question or f"{text}\n" in item.question)
    ),
    "plural": lambda item: item.words[0] + "s",
    "opposite": lambda item: next(word for word in item.words[0].split() if not re.search(rf"\b{word}\b", item.question)),
    "upper": lambda item: item.words[0].upper(),
    "larger": lambda item: str(max(map(int, re.findall(r"\d+", item.question)))),
    "after": lambda item: str(int(re.findall(r"\d+", item.question)[0]) + 1),
    "story": told,
}  # fmt: skip


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("member", "replace")])
def test_the_answer_is_right_by_another_route(kind):
    for item in TRAIN + HELD:
        if item.kind == kind:
            assert item.answer == CHECKS[kind](item), item


def test_whether_a_word_is_in_the_list():
    for item in (item for item in TRAIN + HELD if item.kind == "member"):
        asked = item.words[-1]
        assert asked in re.findall(r"[a-z]+", item.question)
        assert item.answer == ("yes" if asked in words_of(item) else "no")


def test_a_sentence_with_one_word_replaced():
    for item in (item for item in TRAIN + HELD if item.kind == "replace"):
        old, new = sentence_of(item).rstrip(".").split(), item.answer.rstrip(".").split()
        changed = [(one, other) for one, other in zip(old, new, strict=True) if one != other]
        assert len(changed) == 1 and old.count(changed[0][0]) == 1
        rest = item.question.replace(sentence_of(item), "")
        assert all(re.search(rf"\b{word}\b", rest) for word in changed[0])


def test_the_longest_word_is_one_and_first_letters_differ():
    for item in TRAIN + HELD:
        if item.kind in checkable.LISTS:
            words = words_of(item)
            assert len({word[0] for word in words}) == len(words) and 3 <= len(words) <= 5
            assert item.kind != "longest" or sorted(map(len, words))[-1] > sorted(map(len, words))[-2]


def test_a_word_has_one_opposite():
    every = [word for pair in checkable_words.OPPOSITES for word in pair]
    assert len(set(every)) == len(every)
    assert all(len(pair) == 2 for pair in checkable_words.OPPOSITES)
    assert not any(
        word.endswith(("s", "x", "z", "ch", "sh")) or re.search("[^aeiou]y$", word) for word in checkable_words.NOUNS
    )
