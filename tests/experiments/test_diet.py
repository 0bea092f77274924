"""What a base is fed beside plain text."""

import dataclasses

import numpy as np
import pytest

from experiments.data import packing
from experiments.lm import bpe, diet, pretraining
from experiments.lm.pretraining_settings import Settings
from tests.experiments import tiny_lm

LENGTH = 64
SETTINGS = Settings("0.3M", LENGTH, 4, list_steps=20, lists=0.1, dialogues=0.2)


@pytest.fixture(scope="module")
def documents() -> list[str]:
    def told(i: int, thing: str, color: str) -> str:
        return f"The {thing} of house number {i} is {color} today. Everyone who saw the {thing} said it. Nobody had painted the {thing} before."

    each = [(thing, color) for thing in tiny_lm.THINGS for color in tiny_lm.COLORS]
    return [" ".join(told(i, *pair) for pair in (each[i], each[-i], each[i // 2])) + " " for i in range(80)]


@pytest.fixture(scope="module")
def tokenizer(documents):
    return bpe.trained(documents, 400)


@pytest.fixture(scope="module")
def text(tokenizer, documents) -> packing.Rows:
    return packing.stream([tokenizer.encode(document).ids for document in documents], LENGTH)


def sequences(rows: packing.Rows):
    """(tokens, scored) of every sequence of every row."""
    for ids, segments, scored in zip(rows.ids, rows.segments, rows.scored, strict=True):
        for number in range(1, segments.max() + 1):
            yield ids[segments == number], scored[segments == number]


def test_what_is_scored_of_a_list_was_said_before(tokenizer, documents, text):
    rows, kinds = diet.lists(tokenizer, documents, text, 50, LENGTH, 0), set()
    assert rows.ids.shape == (50, LENGTH) and (rows.segments > 0).mean() > 0.9
    for ids, scored in sequences(rows):
        at = np.flatnonzero(scored)
        if not len(at):
            continue  # cut off before it was said again
        period = at[0] + 1
        assert (ids[at + 1] == ids[at + 1 - period]).all() and (np.diff(at) == 1).all()
        assert at[-1] == len(ids) - 2  # up to the end, whose next token is of another sequence
        kinds.add("," in tokenizer.decode(ids.tolist()))
    assert kinds == {True, False}


def test_lists_are_of_words_and_of_any_tokens_and_of_the_text(tokenizer, documents, text):
    ids = np.concatenate([ids for ids, _ in sequences(diet.lists(tokenizer, documents, text, 200, LENGTH, 1))])
    bytes_never_in_the_text = set(range(len(bpe.SPECIAL), tokenizer.get_vocab_size())) - set(text.ids.ravel().tolist())
    assert bytes_never_in_the_text & set(ids.tolist())  # any token
    assert not set(ids.tolist()) & set(range(len(bpe.SPECIAL)))
    whole = " ".join(
        tokenizer.decode(row.tolist()) for row in diet.lists(tokenizer, documents, text, 200, LENGTH, 1).ids
    )
    assert " said it. Nobody had" in whole  # a piece of the text


def test_dialogues_ask_with_sentences_or_a_list_and_answer_with_the_next_or_a_part(tokenizer, documents):
    rows = diet.dialogues(tokenizer, documents, 12, LENGTH, 0)
    assert len(rows.ids) == 12
    question, answer, end = (tokenizer.token_to_id(token) for token in (bpe.QUESTION, bpe.ANSWER, bpe.END))
    copied = following = 0
    of_lists = set()
    for ids, scored in sequences(rows):
        ids = ids.tolist()
        assert ids[0] == question and ids[-1] == end and ids.count(answer) == 1
        assert scored[:-1].all() and not scored[-1]
        asked, told = (tokenizer.decode(part) for part in (ids[1 : ids.index(answer)], ids[ids.index(answer) + 1 : -1]))
        copied += told in asked
        if "." not in asked:  # a list
            of_lists.add(told == asked)
            assert told in (asked, *asked.replace(",", "").split())
        following += any(f"{asked} {told}" in document for document in documents)
    assert copied and following and of_lists == {True, False}


def test_without_copies_every_answer_is_what_comes_next(tokenizer, documents):
    answer = tokenizer.token_to_id(bpe.ANSWER)
    for ids, _ in sequences(diet.dialogues(tokenizer, documents, 12, LENGTH, 0, copies=False)):
        at = ids.tolist().index(answer)
        asked, told = (tokenizer.decode(part.tolist()) for part in (ids[1:at], ids[at + 1 : -1]))
        assert any(f"{asked} {told}" in document for document in documents)


def test_the_diet_is_as_its_shares_say(tokenizer, documents, text):
    fed = diet.fed(tokenizer, documents, SETTINGS, text)
    total = len(text.ids) / 0.7
    assert len(fed.first.ids) == 20 * 4 and len(fed.then.ids) == pytest.approx(total, abs=2)
    assert (fed.then.ids[: len(text.ids)] == text.ids).all()
    again = diet.fed(tokenizer, documents, SETTINGS, text)
    other = diet.fed(tokenizer, documents, dataclasses.replace(SETTINGS, seed=1), text)
    assert (again.first.ids == fed.first.ids).all() and (other.first.ids != fed.first.ids).any()
    plain = diet.fed(tokenizer, documents, Settings("0.3M", LENGTH, 4), text)
    assert len(plain.first.ids) == 0 and (plain.then.ids == text.ids).all()


def test_lists_come_first_and_once_and_the_rest_once_an_epoch(tokenizer, documents, text):
    fed = diet.fed(tokenizer, documents, SETTINGS, text)
    first, size = len(fed.first.ids), len(fed.then.ids)
    calls = 2 + 2 * (size // 40)
    orders = [pretraining._order(SETTINGS, call, fed).ravel() for call in range(calls)]
    assert np.concatenate(orders[:2]).tolist() == list(range(first))
    epochs = np.split(np.concatenate(orders[2:]), 2)
    for epoch in epochs:
        assert len(set(epoch.tolist())) == len(epoch) and epoch.min() >= first and epoch.max() < first + size
    assert (epochs[0] != epochs[1]).any()
