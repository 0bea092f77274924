"""Sentences as token ids in few shapes, and epochs of batches of one shape each.

Letters: N examples, T tokens, M members, S steps of a piece, B batch.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import tokenizers

from experiments.common.errors import UserError
from experiments.data.sst2 import Texts


@dataclasses.dataclass(frozen=True)
class Bucket:
    """The examples of about one length.

    `rows` int [N], their positions in the texts; `input_ids` int32 [N, length], 0 is padding, always at the end; `labels`
    int32 [N]; `cut` of them were longer than `length`.
    """

    length: int
    rows: np.ndarray
    input_ids: np.ndarray
    labels: np.ndarray
    cut: int = 0


def encode(tokenizer: tokenizers.Tokenizer, texts: Texts, lengths: Sequence[int]) -> list[Bucket]:
    """Every example once, in the shortest bucket that holds it, in the order of the texts; no bucket is empty.

    Args:
      tokenizer: adds [CLS] and [SEP] itself; whether it cuts or pads, too, does not matter.
      lengths: ascending, 2 or more. A sentence longer than the last keeps its first tokens and its [SEP].

    Returns:
      Buckets, ascending in length.
    """
    encodings = _as_is(tokenizer).encode_batch(list(texts.sentences))
    ids = [encoding.ids for encoding in encodings]
    return [
        _bucket(length, rows, ids, texts.labels) for length, rows in by_length([len(tokens) for tokens in ids], lengths)
    ]


def by_length(sizes: Sequence[int], limits: Sequence[int]) -> list[tuple[int, np.ndarray]]:
    """(limit, positions of the sizes it holds), ascending, none empty; what exceeds the last limit goes there too."""
    place = np.searchsorted(limits[:-1], sizes)  # beyond the last but one: the last
    groups = [(limit, np.flatnonzero(place == index)) for index, limit in enumerate(limits)]
    return [(limit, rows) for limit, rows in groups if len(rows)]


def _as_is(tokenizer: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """A copy that neither cuts nor pads: a published tokenizer.json may say that it does."""
    copy = tokenizers.Tokenizer.from_str(tokenizer.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy


def _bucket(length: int, rows: np.ndarray, ids: Sequence[Sequence[int]], labels: np.ndarray) -> Bucket:
    input_ids = np.zeros((len(rows), length), np.int32)
    cut = 0
    for target, row in zip(input_ids, rows, strict=True):
        tokens = ids[row]
        if len(tokens) > length:
            cut += 1
            tokens = [*tokens[: length - 1], tokens[-1]]
        target[: len(tokens)] = tokens
    return Bucket(length, rows, input_ids, labels[rows], cut)


def waste(buckets: Sequence[Bucket]) -> dict[str, float]:
    """What padding costs, in tokens; `..._in_one_length` is for all examples padded to the longest bucket."""
    examples = sum(len(bucket.rows) for bucket in buckets)
    real = sum(int(np.count_nonzero(bucket.input_ids)) for bucket in buckets)
    padded = sum(bucket.input_ids.size for bucket in buckets)
    return {
        "examples": examples,
        "real_tokens": real,
        "padded_tokens": padded,
        "padded_tokens_per_example": padded / examples,
        "share_wasted": 1 - real / padded,
        "share_wasted_in_one_length": 1 - real / (examples * max(bucket.length for bucket in buckets)),
        "cut_sentences": sum(bucket.cut for bucket in buckets),
    }


def merge_small(buckets: Sequence[Bucket], batch_size: int, steps: int) -> list[Bucket]:
    """Buckets that all hold a piece of `steps` batches: one too small is padded into the next longer.

    The last, where it is too small, takes in the one before it, which can cost much padding: `waste` of the result says.

    Raises:
      UserError: where all of them together are too small.
    """
    need, merged, waiting = steps * batch_size, [], []
    for bucket in buckets:
        waiting.append(bucket)
        if sum(len(other.rows) for other in waiting) >= need:
            merged.append(_merge(waiting))
            waiting = []
    if waiting:
        waiting = [*merged[-1:], *waiting]
        merged[-1:] = [_merge(waiting)]
    if len(merged[-1].rows) < need:
        raise UserError(
            f"{len(merged[-1].rows):,} training sentences do not fill {steps} batches of {batch_size}, which run as one; "
            "give it more sentences."
        )
    return merged


def _merge(buckets: Sequence[Bucket]) -> Bucket:
    """One bucket of the last one's length."""
    length = buckets[-1].length
    return Bucket(
        length,
        np.concatenate([bucket.rows for bucket in buckets]),
        np.concatenate([np.pad(bucket.input_ids, ((0, 0), (0, length - bucket.length))) for bucket in buckets]),
        np.concatenate([bucket.labels for bucket in buckets]),
        sum(bucket.cut for bucket in buckets),
    )


def piece_counts(sizes: Sequence[int], batch_size: int, steps: int) -> list[int]:
    """How many pieces of `steps` batches an epoch takes from each bucket; ValueError where that is none."""
    counts = [size // (steps * batch_size) for size in sizes]
    if not all(counts):
        raise ValueError(
            f"buckets of {list(sizes)} examples: {steps} x {batch_size} are more than one has; merge_small first"
        )
    return counts


def left_out(sizes: Sequence[int], batch_size: int, steps: int) -> float:
    """The share of examples that an epoch leaves out: of each bucket what fills no whole piece, others every epoch."""
    counts = piece_counts(sizes, batch_size, steps)
    return 1 - sum(counts) * steps * batch_size / sum(sizes)


def pieces(
    seeds: Sequence[int], epoch: int, sizes: Sequence[int], batch_size: int, steps: int
) -> list[tuple[int, np.ndarray]]:
    """An epoch's order: each piece is `steps` batches out of one bucket, so that a compiled loop meets one shape a bucket.

    Members that train as one meet one shape at a time: the sequence of buckets is drawn from the epoch alone, and each
    member's examples from its own seed, so that it sees what it would see by itself. Within the epoch no example comes twice.
    The incomplete rest of each bucket is left out, drawn afresh each epoch. A pure function: a run goes on after any epoch as
    if it had not been stopped.

    Args:
      seeds: one per member.
      sizes: examples of each bucket, each a piece or more: see `merge_small`.

    Returns:
      (bucket, rows int32 [M, S, B] into it) of each piece, in order.

    Raises:
      ValueError: for a bucket smaller than a piece.
    """
    counts = piece_counts(sizes, batch_size, steps)
    orders = [_orders(np.random.default_rng((seed, epoch)), sizes, counts, batch_size, steps) for seed in seeds]
    # Another spawn key than the rows' generator, whose (0, epoch) or (seed, 0) could else be the same.
    sequence = np.random.default_rng(np.random.SeedSequence(epoch, spawn_key=(1,)))
    left = [iter(np.stack(members, axis=1)) for members in zip(*orders, strict=True)]  # of [pieces, M, S, B]
    turns = sequence.permutation(np.repeat(np.arange(len(sizes)), counts))
    return [(int(bucket), next(left[bucket])) for bucket in turns]


def _orders(
    rng: np.random.Generator, sizes: Sequence[int], counts: Sequence[int], batch_size: int, steps: int
) -> list[np.ndarray]:
    """For each bucket, int32 [pieces, S, B]: its examples, shuffled, but the rest."""
    shapes = [(count, steps, batch_size) for count in counts]
    return [
        rng.permutation(size)[: np.prod(shape)].astype(np.int32).reshape(shape)
        for size, shape in zip(sizes, shapes, strict=True)
    ]
