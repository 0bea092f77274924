"""A trigram model with interpolated absolute discounting (Ney et al. 1994): what a language model has to beat."""

import numpy as np

from experiments.data.packing import Rows

DISCOUNT = 0.75


def contexts(rows: Rows, vocab_size: int) -> np.ndarray:
    """int64 [n, 3]: of every scored place the two tokens before and the target; `vocab_size` where a document begins."""
    row, place = np.nonzero(rows.scored)
    before = np.maximum(place - 1, 0)
    begins = (place == 0) | (rows.segments[row, before] != rows.segments[row, place])
    first = np.where(begins, vocab_size, rows.ids[row, before])
    return np.stack([first, rows.ids[row, place], rows.ids[row, place + 1]], axis=1).astype(np.int64)


class Trigram:
    """Counts of train; `loss` of others."""

    def __init__(self, train: np.ndarray, vocab_size: int):
        self._base = vocab_size + 1
        self._tokens = np.bincount(train[:, 2], minlength=vocab_size)
        self._two = _Level(self._codes(train[:, 1:]), self._codes(train[:, 1:2]))
        self._three = _Level(self._codes(train), self._codes(train[:, :2]))

    def _codes(self, columns: np.ndarray) -> np.ndarray:
        code = np.zeros(len(columns), np.int64)
        for column in columns.T:
            code = code * self._base + column
        return code

    def loss(self, places: np.ndarray) -> float:
        """Nats a token, mean over `places` [n, 3]."""
        one = (self._tokens[places[:, 2]] + 1) / (self._tokens.sum() + len(self._tokens))
        two = self._two.mixed(self._codes(places[:, 1:]), self._codes(places[:, 1:2]), one)
        three = self._three.mixed(self._codes(places), self._codes(places[:, :2]), two)
        return float(-np.log(three).mean())


class _Level:
    """How often each n-gram and its context came, and how many n-grams share a context."""

    def __init__(self, grams: np.ndarray, contexts: np.ndarray):
        self._grams, first, self._counts = np.unique(grams, return_index=True, return_counts=True)
        self._contexts, self._totals = np.unique(contexts, return_counts=True)
        _, self._kinds = np.unique(contexts[first], return_counts=True)  # the same contexts, in the same order

    def mixed(self, grams: np.ndarray, contexts: np.ndarray, lower: np.ndarray) -> np.ndarray:
        """Discounted frequency, and what the discount leaves spread as `lower` says; `lower` alone in an unseen context."""
        count = _looked_up(self._grams, self._counts, grams)
        total = _looked_up(self._contexts, self._totals, contexts)
        kinds = _looked_up(self._contexts, self._kinds, contexts)
        known = np.maximum(total, 1)
        mixed = np.maximum(count - DISCOUNT, 0) / known + DISCOUNT * kinds / known * lower
        return np.where(total > 0, mixed, lower)


def _looked_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0)
