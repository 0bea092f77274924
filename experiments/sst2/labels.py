"""What a user's labels are called, and their numbers: words in order, numbers by size, 0 and 1 as negative and positive."""

import collections
import dataclasses
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.common.errors import UserError
from experiments.data.sst2 import CLASSES


@dataclasses.dataclass(frozen=True)
class Labels:
    """`written` as the file has them, `words` as predictions say them; the position of each is its number."""

    written: tuple[str, ...]
    words: tuple[str, ...]

    def numbers(self, where: str, lines: Sequence[int], found: Sequence[str]) -> np.ndarray:
        """int32 [N]. Raises UserError for one that is not among these."""
        known = {word: number for number, word in enumerate(self.written)}
        for line, word in zip(lines, found, strict=True):
            if word not in known:
                raise UserError(
                    f"{where}: the label of line {line} is {shown(word)}, which no training sentence has; there are {listed(self.written)}."
                )
        return np.asarray([known[word] for word in found], np.int32)


def of(where: str, found: Sequence[str]) -> Labels:
    """The labels of a training file.

    >>> of("a.csv", ["sports", "politics", "sports"]).words, of("a.csv", ["1", "0", "1"]).words, of("a.csv", ["10", "9", "9", "10"]).words
    (('politics', 'sports'), ('negative', 'positive'), ('9', '10'))

    Raises:
      UserError: for some that differ in case alone, or so many that they can be no classes.
    """
    counts = collections.Counter(found)
    written = tuple(sorted(counts, key=lambda word: (not _is_number(word), int(word) if _is_number(word) else 0, word)))
    folded: dict[str, str] = {}
    for word in written:
        other = folded.setdefault(unicodedata.normalize("NFC", word).casefold(), word)
        if other != word:
            how = "case" if other.casefold() == word.casefold() else "how their letters are encoded"
            raise UserError(
                f"{where}: the labels {shown(other)} and {shown(word)} differ in {how} alone; write them alike."
            )
    if len(written) > max(2, len(found) // 2):
        raise UserError(
            f"{where}: {len(written):,} labels in {len(found):,} sentences are too many for classes; name another column by --label_field."
        )
    return Labels(written, CLASSES if written == ("0", "1") else written)


def word(where: str, line: int, label: Any) -> str:
    """A label as text. Raises UserError for what is none: nothing, a fraction, a list."""
    text = str(label).strip() if isinstance(label, (str, int)) and not isinstance(label, bool) else ""
    if not text or not text.isprintable() or _is_fraction(text):
        raise UserError(
            f"{where}: the label of line {line} is {shown(label)}; it must be a word, or a whole number from 0."
        )
    return text


def listed(words: Sequence[str], most: int = 12) -> str:
    """The words, or the first of many."""
    return ", ".join(words[:most]) + (f" ... ({len(words)} in all)" if len(words) > most else "")


def shown(value: Any) -> str:
    """A value of the user's, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def _is_number(word: str) -> bool:
    return word.isascii() and word.removeprefix("-").isdecimal() and len(word) < 19


def _is_fraction(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return not _is_number(word)
