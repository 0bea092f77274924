"""Is every sentence whole in its bucket, and does an epoch take each example once, in an order of (seed, epoch) alone?"""

import numpy as np
import pytest
import tokenizers

from experiments.common.errors import UserError
from experiments.data import buckets, prepared, sst2
from experiments.sst2.settings import LENGTHS
from tests.experiments.entries import SHARED_TFDS

VOCABULARY = SHARED_TFDS.parent / "data" / "bert_uncased_vocab.txt"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "film", "good", "bad", "##ly", "a"]
CLS, SEP, FILM = WORDS.index("[CLS]"), WORDS.index("[SEP]"), WORDS.index("film")
SIZES, BATCH, STEPS = [23, 12, 40], 3, 2  # pieces of 6: 3, 2 and 6 of them, 5, 0 and 4 examples left out


@pytest.fixture
def tokenizer() -> tokenizers.Tokenizer:
    return tokenizers.BertWordPieceTokenizer({word: token for token, word in enumerate(WORDS)}, lowercase=True)


def texts_of(*words: int) -> sst2.Texts:
    """Sentences of so many words, which become two more tokens."""
    sentences = tuple(" ".join(["film"] * (n - 1) + ["good"]) for n in words)
    return sst2.Texts(sentences, np.arange(len(words), dtype=np.int32) % 2)


def test_every_sentence_is_whole_in_the_shortest_bucket_that_holds_it(tokenizer):
    texts = texts_of(1, 6, 2, 3, 5, 4, 6, 1)
    encoded = buckets.encode(tokenizer, texts, (4, 6, 7, 8))
    assert [bucket.length for bucket in encoded] == [4, 6, 7, 8]
    assert [bucket.rows.tolist() for bucket in encoded] == [[0, 2, 7], [3, 5], [4], [1, 6]]
    for bucket in encoded:
        assert bucket.input_ids.shape == (len(bucket.rows), bucket.length) and bucket.cut == 0
        assert bucket.input_ids.dtype == bucket.labels.dtype == np.int32
        assert np.array_equal(bucket.labels, texts.labels[bucket.rows])
        for row, ids in zip(bucket.rows, bucket.input_ids, strict=True):
            whole = tokenizer.encode(texts.sentences[row]).ids
            assert ids.tolist() == whole + [0] * (bucket.length - len(whole))


def test_empty_buckets_are_left_out(tokenizer):
    assert [bucket.length for bucket in buckets.encode(tokenizer, texts_of(1, 9), (4, 6, 8, 16))] == [4, 16]


def test_a_long_sentence_is_cut_and_keeps_its_end(tokenizer):
    (bucket,) = buckets.encode(tokenizer, texts_of(4, 9, 7), (6,))
    assert bucket.cut == 2
    assert bucket.input_ids[1].tolist() == [CLS, FILM, FILM, FILM, FILM, SEP]
    assert bucket.input_ids[0].tolist() == tokenizer.encode("film film film good").ids


def test_a_tokenizer_that_pads_and_cuts_is_read_as_one_that_does_not(tokenizer):
    texts = texts_of(1, 9)
    expected = [bucket.input_ids for bucket in buckets.encode(tokenizer, texts, (4, 16))]
    tokenizer.enable_padding(length=20)
    tokenizer.enable_truncation(5)
    found = [bucket.input_ids for bucket in buckets.encode(tokenizer, texts, (4, 16))]
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
    assert len(tokenizer.encode("film").ids) == 20  # the caller's own is as it was


def test_waste_by_hand(tokenizer):
    encoded = buckets.encode(tokenizer, texts_of(1, 2, 7, 5), (4, 8))  # 3 + 4 of 8 tokens, 8 (cut from 9) + 7 of 16
    assert buckets.waste(encoded) == {
        "examples": 4, "real_tokens": 22, "padded_tokens": 24, "padded_tokens_per_example": 6,
        "share_wasted": pytest.approx(2 / 24), "share_wasted_in_one_length": pytest.approx(10 / 32), "cut_sentences": 1,
    }  # fmt: skip


def merged(tokenizer, sizes, need):
    """[(length, examples)] of buckets of 4, 8, ... with `sizes` examples; nothing in them may change."""
    texts = texts_of(*(4 * place + 2 for place, size in enumerate(sizes) for _ in range(size)))
    before = buckets.encode(tokenizer, texts, [4 * place + 4 for place in range(len(sizes))])
    after = buckets.merge_small(before, batch_size=need, steps=1)
    assert sorted(np.concatenate([bucket.rows for bucket in after])) == list(range(sum(sizes)))
    for bucket in after:
        assert bucket.input_ids.shape == (len(bucket.rows), bucket.length)
        assert np.array_equal(bucket.labels, texts.labels[bucket.rows])
        real = [ids[ids != 0].tolist() for ids in bucket.input_ids]
        assert real == [tokenizer.encode(texts.sentences[row]).ids for row in bucket.rows]
    return [(bucket.length, len(bucket.rows)) for bucket in after]


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ((5, 5, 5), [(4, 5), (8, 5), (12, 5)]),
        ((4, 5, 6), [(8, 9), (12, 6)]),
        ((5, 1, 6), [(4, 5), (12, 7)]),
        ((5, 9, 4), [(4, 5), (12, 13)]),
        ((2, 2, 2, 7), [(12, 6), (16, 7)]),
        ((2, 2, 1, 4), [(16, 9)]),
    ],
)
def test_a_small_bucket_joins_the_next_longer(tokenizer, sizes, expected):
    assert merged(tokenizer, sizes, need=5) == expected


def test_too_few_for_one_piece(tokenizer):
    with pytest.raises(UserError, match=r"^4 training sentences do not fill 1 batches of 5, .*give it more sentences"):
        merged(tokenizer, (2, 2), need=5)


def alone(seed: int, *args) -> list[tuple[int, np.ndarray]]:
    """The pieces of one member, rows [S, B]."""
    return [(bucket, rows[0]) for bucket, rows in buckets.pieces([seed], *args)]


def test_an_epoch_takes_each_example_once_up_to_the_rest():
    epoch = alone(7, 0, SIZES, BATCH, STEPS)
    assert all(rows.shape == (STEPS, BATCH) and rows.dtype == np.int32 for _, rows in epoch)
    for index, (size, taken) in enumerate(zip(SIZES, (18, 12, 36), strict=True)):
        rows = np.concatenate([rows.ravel() for bucket, rows in epoch if bucket == index])
        assert len(rows) == taken == len(set(rows.tolist())) and set(rows.tolist()) <= set(range(size))
    assert buckets.left_out(SIZES, BATCH, STEPS) == pytest.approx(1 - sum(rows.size for _, rows in epoch) / sum(SIZES))
    assert buckets.piece_counts(SIZES, BATCH, STEPS) == [3, 2, 6]


def flat(epoch) -> list:
    return [(bucket, rows.tolist()) for bucket, rows in epoch]


def test_the_order_is_that_of_seed_and_epoch_alone():
    orders = {(s, e): flat(alone(s, e, SIZES, BATCH, STEPS)) for s in range(3) for e in range(3)}
    assert all(flat(alone(s, e, SIZES, BATCH, STEPS)) == order for (s, e), order in orders.items())
    rows = [tuple(sorted((bucket, str(rows)) for bucket, rows in order)) for order in orders.values()]
    assert len(set(rows)) == 9  # other rows in each, not the same pieces in another sequence


def test_buckets_take_turns_by_chance():
    sequences = {tuple(bucket for bucket, _ in alone(0, epoch, SIZES, BATCH, STEPS)) for epoch in range(10)}
    assert len(sequences) == 10
    firsts = [alone(0, epoch, SIZES, BATCH, STEPS)[0][0] for epoch in range(300)]
    assert np.bincount(firsts) / 300 == pytest.approx([3 / 11, 2 / 11, 6 / 11], abs=0.1)


def test_other_examples_are_left_out_each_epoch():
    taken = [{row for _, rows in alone(0, e, [23], BATCH, STEPS) for row in rows.ravel().tolist()} for e in range(8)]
    assert all(len(rows) == 18 for rows in taken)
    assert set.union(*taken) == set(range(23)) and len(set(map(frozenset, taken))) == 8


def test_a_member_sees_what_it_sees_by_itself():
    together = buckets.pieces([4, 9, 4], 2, SIZES, BATCH, STEPS)
    assert all(rows.shape == (3, STEPS, BATCH) and rows.dtype == np.int32 for _, rows in together)
    for member, seed in enumerate([4, 9, 4]):
        assert flat((bucket, rows[member]) for bucket, rows in together) == flat(alone(seed, 2, SIZES, BATCH, STEPS))
    assert not any(np.array_equal(rows[0], rows[1]) for _, rows in together)


def test_a_bucket_smaller_than_a_piece_is_refused():
    with pytest.raises(ValueError, match=r"buckets of \[12, 5\] examples: 2 x 3 .*merge_small first"):
        alone(0, 0, [12, 5], BATCH, STEPS)


@pytest.mark.skipif(not VOCABULARY.is_file(), reason="no ../shared/data here")
def test_the_lengths_suit_sst2():
    """On the first 3,000 phrases, which tfds has shuffled."""
    (info,) = SHARED_TFDS.glob("glue/sst2/*/dataset_info.json")
    (examples,) = prepared.read(info, ["train"], lambda source: source.__getitems__(range(3000)))
    texts = sst2.Texts(tuple(example["sentence"].decode() for example in examples), np.zeros(3000, np.int32))
    tokenizer = tokenizers.BertWordPieceTokenizer(str(VOCABULARY), lowercase=True)
    measured = buckets.waste(buckets.encode(tokenizer, texts, LENGTHS))
    assert measured["share_wasted"] == pytest.approx(0.247, abs=0.01)
    assert measured["share_wasted_in_one_length"] == pytest.approx(0.815, abs=0.01) and measured["cut_sentences"] == 0
