"""Rows: nothing is lost or cut but what is said to be, and what is scored is what should be."""

import numpy as np
import pytest

from experiments.data import packing
from experiments.lm.trigram import Trigram, contexts


def examples(sizes, seed: int = 0) -> list[packing.Example]:
    rng = np.random.default_rng(seed)
    made = []
    for size in sizes:
        ids, answer_at = rng.integers(1, 99, size).tolist(), int(rng.integers(1, size))
        made.append(packing.Example.of_pair(ids[:answer_at], ids[answer_at:]))
    return made


def test_a_stream_is_the_documents_one_after_the_other():
    documents = [[1, 2, 3], [4, 5], [6, 7, 8, 9, 10, 11], [12]]
    rows = packing.stream(documents, 4)
    assert rows.ids.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]]
    assert rows.segments.tolist() == [[1, 1, 1, 2], [1, 2, 2, 2], [1, 1, 1, 2]]
    assert rows.scored.tolist() == [[True, True, False, False], [False, True, True, False], [True, True, False, False]]
    assert rows.share_filled == 1
    assert packing.stream(documents, 5).ids.shape == (2, 5)  # the last two tokens fill no row
    assert packing.stream([], 5).ids.shape == (0, 5)


def test_every_example_is_in_one_row_whole():
    made = examples(np.random.default_rng(1).integers(2, 40, 200))
    rows, members = packing.place(made, 40)
    assert sorted(i for row in members for i in row) == list(range(200))
    for row, held in enumerate(members):
        for number, i in enumerate(held, 1):
            assert rows.ids[row][rows.segments[row] == number].tolist() == list(made[i].ids)
    assert (rows.ids[rows.segments == 0] == 0).all()
    tokens = sum(len(example.ids) for example in made)
    assert len(rows.ids) <= 1 + tokens / 40 * 1.1  # best fit wastes little
    assert rows.share_filled == pytest.approx(tokens / rows.ids.size)


def test_only_answers_are_scored():
    made = [packing.Example.of_pair([5, 6], [7, 8]), packing.Example.of_pair([9, 10], [11])]
    rows, _ = packing.place(made, 9)
    assert rows.scored.tolist() == [[False, True, True, False, False, True, False, False, False]]
    batch = packing.gathered(rows, multiple=4)
    assert batch["places"].tolist() == [[1, 2, 5, 0]] and batch["targets"][0, :3].tolist() == [7, 8, 11]
    assert batch["weights"].tolist() == [[1, 1, 1, 0]]


def test_gathered_places_are_the_scored_ones_of_every_row():
    rows, _ = packing.place(examples(np.random.default_rng(2).integers(2, 30, 90)), 32)
    batch = packing.gathered(rows)
    assert batch["places"].shape[1] % 8 == 0
    for row in range(len(rows.ids)):
        real = batch["weights"][row] > 0
        np.testing.assert_array_equal(batch["places"][row][real], np.flatnonzero(rows.scored[row]))
        np.testing.assert_array_equal(batch["targets"][row][real], rows.ids[row][np.flatnonzero(rows.scored[row]) + 1])


def test_an_example_that_fits_no_row_is_the_callers_matter():
    with pytest.raises(ValueError, match="an example has 11 tokens; a row has 10"):
        packing.place(examples([3, 11]), 10)


def test_a_trigram_model_is_a_distribution_and_knows_what_it_saw():
    rng = np.random.default_rng(0)
    rows = packing.stream([rng.integers(0, 7, rng.integers(5, 40)).tolist() for _ in range(300)], 32)
    places = contexts(rows, 7)
    model = Trigram(places, 7)
    for context in [(7, 3), (1, 2), (7, 7), (6, 6)]:
        assert sum(np.exp(-model.loss(np.asarray([[*context, token]]))) for token in range(7)) == pytest.approx(1)
    periodic = packing.stream([[1, 2, 3, 4] * 50], 20)
    assert Trigram(contexts(periodic, 7), 7).loss(contexts(periodic, 7)) < 0.1 < model.loss(places)


def test_contexts_begin_where_a_document_does():
    rows = packing.stream([[1, 2, 3], [4, 5, 6]], 6)
    assert contexts(rows, 9).tolist() == [[9, 1, 2], [1, 2, 3], [9, 4, 5], [4, 5, 6]]
