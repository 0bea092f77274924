"""A user's tables of texts and labels: which columns they are in, and the rows, each with its line.

`.tsv` as GLUE has it (a header, no quoting), `.csv` (a header, quoting as in RFC 4180) or `.jsonl` (an object a line). Other columns may lie beside.
"""

import csv
import dataclasses
import io
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from experiments.common.errors import UserError

TEXTS = (
    "sentence",
    "text",
    "sentences",
    "texts",
    "review",
    "content",
    "comment",
    "tweet",
    "body",
    "document",
    "utterance",
)
LABELS = ("label", "labels", "class", "category", "target", "sentiment", "intent")
csv.field_size_limit(2**31 - 1)  # a whole document is a field, too
Row = tuple[int, list[Any]]  # line, values of the columns asked for, as the file has them


@dataclasses.dataclass(frozen=True)
class Column:
    """A column to find: the one that is named by its flag, else the first of the known names, else the only one of them."""

    what: str
    flag: str
    known: tuple[str, ...]
    named: str | None = None

    def of(self, where: str, names: Sequence[str]) -> str:
        """Its name among these. Raises UserError where none is it, or more than one may be."""
        there = ", ".join(map(repr, names))
        if self.named is not None:
            if self.named not in names:
                raise UserError(
                    f"{where}: there is no column {self.named!r}, which {self.flag} names; there are {there}."
                )
            return self.named
        if self.known[0] in names:
            return self.known[0]
        found = [name for name in names if name.lower() in self.known]
        if len(found) > 1:
            raise UserError(
                f"{where}: {' and '.join(map(repr, found))} may both be {self.what}; say which by {self.flag}."
            )
        if not found:
            raise UserError(
                f"{where}: there is no column {self.known[0]!r} with {self.what}, nor {self.known[1]!r} or the like; there are {there}: "
                f"say which by {self.flag}."
            )
        return found[0]


def columns(text_field: str | None = None, label_field: str | None = None) -> tuple[Column, Column]:
    """The columns of texts and of labels, as flags name them."""
    return Column("the texts", "--text_field", TEXTS, text_field), Column(
        "the labels", "--label_field", LABELS, label_field
    )


def rows(where: str, kind: str, text: str, wanted: Sequence[Column]) -> Iterator[Row]:
    """The rows of a file's text; `kind` is one of KINDS.

    Raises:
      UserError: for columns that are not there, come twice or are one, rows of another width, and what is no table or no JSON.
    """
    return KINDS[kind](where, text, wanted)


def _found(where: str, names: Sequence[str], wanted: Sequence[Column]) -> list[str]:
    twice = [name for name in dict.fromkeys(names) if name and list(names).count(name) > 1]
    if twice:
        raise UserError(
            f"{where}: the column {twice[0]!r} comes {list(names).count(twice[0])} times; give each a name of its own."
        )
    found = [column.of(where, names) for column in wanted]
    if len(set(found)) < len(found):
        raise UserError(f"{where}: {found[0]!r} cannot be both {' and '.join(column.what for column in wanted)}.")
    return found


def _table(where: str, text: str, wanted: Sequence[Column], **dialect: Any) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, **dialect)
    try:
        names = [name.strip() for name in next(reader, [])]
        if not any(names):
            raise UserError(f"{where}: the file is empty, or its first line names no columns.")
        places = [names.index(name) for name in _found(where, names, wanted)]
        for values in reader:
            if len(values) <= 1 and not "".join(values).strip():
                continue  # a blank line
            if len(values) != len(names):
                raise UserError(
                    f"{where}: line {reader.line_num} has {len(values)} columns, and the header has {len(names)}."
                )
            yield reader.line_num, [values[place] for place in places]
    except csv.Error as error:
        raise UserError(f"{where}: line {reader.line_num} cannot be read as a table ({error}).") from error


def _tsv(where: str, text: str, wanted: Sequence[Column]) -> Iterator[Row]:
    return _table(where, text, wanted, delimiter="\t", quoting=csv.QUOTE_NONE)


def _jsonl(where: str, text: str, wanted: Sequence[Column]) -> Iterator[Row]:
    names = None
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_pairs)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where}: line {number} is no JSON ({error}).") from error
        if not isinstance(row, dict):
            raise UserError(f"{where}: line {number} is no object with a text and a label.")
        if names is None:
            names = _found(f"{where}: line {number}", list(row), wanted)
        missing = [name for name in names if name not in row]
        if missing:
            raise UserError(
                f"{where}: line {number} has no {' and no '.join(map(repr, missing))}; "
                f"it has {', '.join(map(repr, row)) or 'nothing'}."
            )
        yield number, [row[name] for name in names]


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys come once each."""
    names = [name for name, _ in pairs]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"{twice[0]!r} comes {names.count(twice[0])} times in one object")
    return dict(pairs)


KINDS: dict[str, Callable[[str, str, Sequence[Column]], Iterator[Row]]] = {
    ".tsv": _tsv,
    ".csv": _table,
    ".jsonl": _jsonl,
}
