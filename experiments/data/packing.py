"""Token sequences as rows of one length: text as a stream that fills them, examples placed whole.

`segments` says which document a token is of: attention stays within one, and no token predicts another document's.
Letters: N rows, T tokens, P scored places of a row.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Rows:
    """`ids` int32 [N, T]; `segments` int32 [N, T], 1, 2 ... within a row, 0 padding; `scored` bool [N, T]: whether the
    *next* token is to be predicted from here."""

    ids: np.ndarray
    segments: np.ndarray
    scored: np.ndarray

    @property
    def share_filled(self) -> float:
        """Of all places, those that hold a token."""
        return float((self.segments > 0).mean())

    def __len__(self) -> int:
        """N."""
        return len(self.ids)

    def part(self, of: slice | np.ndarray) -> "Rows":
        """These rows."""
        return Rows(self.ids[of], self.segments[of], self.scored[of])

    @classmethod
    def joined(cls, parts: "Sequence[Rows]") -> "Rows":
        """The rows of all parts, one after the other."""
        return cls(
            *(np.concatenate([getattr(part, field.name) for part in parts]) for field in dataclasses.fields(cls))
        )


@dataclasses.dataclass(frozen=True)
class Example:
    """A question and its answer, or a conversation, as one sequence: of each token whether it is of an answer. Only those are scored."""

    ids: Sequence[int]
    is_answer: Sequence[bool]

    @classmethod
    def of_pair(cls, asked: Sequence[int], told: Sequence[int]) -> "Example":
        """One question and its answer."""
        return cls((*asked, *told), (False,) * len(asked) + (True,) * len(told))

    @property
    def answer_at(self) -> int:
        """Where the first answer begins."""
        return self.is_answer.index(True)


def stream(documents: Iterable[Sequence[int]], length: int) -> Rows:
    """Documents one after the other, cut where a row ends; the incomplete last row is left out.

    A document's part in the next row is a document of its own: it does not see what came before.
    """
    parts, numbers = [], []
    for number, document in enumerate(documents):
        parts.append(np.asarray(document, np.int32))
        numbers.append(np.full(len(document), number, np.int64))
    ids = np.concatenate(parts) if parts else np.zeros(0, np.int32)
    rows = len(ids) // length
    ids = ids[: rows * length].reshape(rows, length)
    owner = (np.concatenate(numbers) if numbers else np.zeros(0, np.int64))[: rows * length].reshape(rows, length)
    segments = 1 + np.cumsum(np.diff(owner, axis=1, prepend=owner[:, :1]) != 0, axis=1)
    return Rows(ids, segments.astype(np.int32), continues(segments))


def continues(segments: np.ndarray) -> np.ndarray:
    """Where the next token is of the same document."""
    same = np.zeros(segments.shape, bool)
    same[:, :-1] = (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] > 0)
    return same


def place(examples: Sequence[Example], length: int) -> tuple[Rows, list[list[int]]]:
    """Examples whole, several in a row, by best fit in order of falling length; and which ones each row holds.

    Raises:
      ValueError: for an example longer than a row: it is the caller's to count and leave out.
    """
    order = sorted(range(len(examples)), key=lambda i: -len(examples[i].ids))
    if order and len(examples[order[0]].ids) > length:
        raise ValueError(f"an example has {len(examples[order[0]].ids)} tokens; a row has {length}.")
    with_room: list[list[int]] = [[] for _ in range(length + 1)]  # free places -> rows that have just as many
    members: list[list[int]] = []
    for i in order:
        need = len(examples[i].ids)
        free = next((room for room in range(need, length + 1) if with_room[room]), None)
        if free is None:
            free, row = length, len(members)
            members.append([])
        else:
            row = with_room[free].pop()
        members[row].append(i)
        with_room[free - need].append(row)
    return _filled(examples, members, length), members


def _filled(examples: Sequence[Example], members: list[list[int]], length: int) -> Rows:
    ids, segments = np.zeros((len(members), length), np.int32), np.zeros((len(members), length), np.int32)
    is_answer = np.zeros((len(members), length), bool)
    for row, held in enumerate(members):
        start = 0
        for number, i in enumerate(held, 1):
            end = start + len(examples[i].ids)
            ids[row, start:end], segments[row, start:end] = examples[i].ids, number
            is_answer[row, start:end] = examples[i].is_answer
            start = end
    scored = continues(segments)
    scored[:, :-1] &= is_answer[:, 1:]
    return Rows(ids, segments, scored)


def gathered(rows: Rows, multiple: int = 8) -> dict[str, np.ndarray]:
    """What a loss takes: {"ids", "segments" [N, T], "places", "targets" int32 [N, P], "weights" float32 [N, P]}.

    `places` are the scored ones of each row, so that the output layer meets no others; P is the most a row has, rounded up.
    """
    counts = rows.scored.sum(axis=1)
    most = int(-(-max(1, counts.max(initial=1)) // multiple) * multiple)
    order = np.argsort(~rows.scored, axis=1, kind="stable")[:, :most].astype(np.int32)  # the scored first, in order
    order = np.pad(order, ((0, 0), (0, most - order.shape[1])))
    real = np.arange(most)[None] < counts[:, None]
    places = np.where(real, order, 0).astype(np.int32)
    following = np.minimum(places + 1, rows.ids.shape[1] - 1)
    return {
        "ids": rows.ids,
        "segments": rows.segments,
        "places": places,
        "targets": np.take_along_axis(rows.ids, following, axis=1),
        "weights": real.astype(np.float32),
    }
