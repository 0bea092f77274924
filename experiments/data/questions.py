"""Questions with answers: instructions in Alpaca's format, medical ones in MedQuAD's; bad rows are counted, never cut."""

import collections
import dataclasses
import functools
import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from experiments.common.errors import UserError
from experiments.data import text
from lora_jax.files import parse

FIELDS = {  # kind -> (fields of the question, joined by a line break; field of the answer)
    "alpaca": (("instruction", "input"), "output"),
    "medquad": (("question",), "answer"),
}


class Pair(NamedTuple):
    """`question` is an instruction and, in a line of its own, the `input` that it is about, if there is one."""

    question: str
    answer: str
    input: str = ""

    @property
    def instruction(self) -> str:
        """The question without its input."""
        return self.question.removesuffix(f"\n{self.input}") if self.input else self.question


@dataclasses.dataclass(frozen=True)
class Pairs:
    """What a file gave, and how many of its rows were left out, by reason."""

    pairs: tuple[Pair, ...]
    left_out: dict[str, int]
    source: str

    @functools.cached_property
    def checksum(self) -> str:
        """SHA-256 over the pairs."""
        return hashlib.sha256(json.dumps(self.pairs).encode()).hexdigest()


def read(path: str, flag: str = "--questions") -> Pairs:
    """The pairs of a .json (a list) or .jsonl file, gzipped or not; its first row says of which kind it is.

    Raises:
      UserError: for a file that is missing, damaged, not UTF-8, of no known kind, or without a single good row.
    """
    where = f"{flag}: {path}"
    return of_rows(where, rows(where, epath.Path(path)), epath.Path(path).name)


def of_rows(where: str, given: Sequence[Any], name: str, also: str = "") -> Pairs:
    """The pairs of a file's rows.

    Args:
      also: what else the first row could have been, for the message.

    Raises:
      UserError: for rows of no known kind, or without a single good one.
    """
    kind = next((kind for kind, (ask, tell) in FIELDS.items() if _has(given[0], (ask[0], tell))), None)
    if kind is None:
        names = ", ".join(sorted(given[0])) if isinstance(given[0], dict) else type(given[0]).__name__
        raise UserError(
            f"{where}: its first row has {names}; give instruction and output (Alpaca) or question and answer (MedQuAD){also}."
        )
    good, left_out = [], collections.Counter()
    for row in given:
        pair, problem = _pair(row, *FIELDS[kind])
        if pair is None:
            left_out[problem] += 1
        else:
            good.append(pair)
    if not good:
        raise UserError(f"{where}: none of its {len(given):,} rows has a question and an answer ({reasons(left_out)}).")
    return Pairs(tuple(good), dict(left_out), f"{name} ({kind})")


def reasons(left_out: Mapping[str, int]) -> str:
    """How many rows were left out, and why.

    >>> reasons({"no answer": 1200, "too long": 0})
    '1,200 no answer'
    """
    return ", ".join(f"{count:,} {why}" for why, count in left_out.items() if count)


def _has(row: Any, fields: tuple[str, ...]) -> bool:
    return isinstance(row, dict) and all(field in row for field in fields)


def _pair(row: Any, ask: tuple[str, ...], tell: str) -> tuple[Pair | None, str]:
    """(the pair, "") or (None, why not)."""
    if not isinstance(row, dict):
        return None, "no object"
    parts = [row.get(field) or "" for field in (*ask, tell)]
    if not all(isinstance(part, str) for part in parts):
        return None, "no text"
    if any(map(is_broken, parts)):
        return None, "wrong encoding"
    *question, answer = (part.strip() for part in parts)
    if not answer:
        return None, "no answer"
    if not question[0]:
        return None, "no question"
    return Pair("\n".join(filter(None, question)), answer, "\n".join(filter(None, question[1:]))), ""


def is_broken(text: str) -> bool:
    """Whether it was read in another encoding than it was written in.

    >>> is_broken("caf\ufffd"), is_broken("café")
    (True, False)
    """
    return any("\ud800" <= character <= "\udfff" or character == "\ufffd" for character in text)


def rows(where: str, path: epath.Path) -> list[Any]:
    """What a file holds, of whatever kind; one row at least.

    Raises:
      UserError: for a file that is missing, damaged, empty, or not UTF-8.
    """
    found = list(_rows(where, path))
    if not found:
        raise UserError(f"{where} is empty.")
    return found


def _rows(where: str, path: epath.Path) -> Iterator[Any]:
    if not path.is_file():
        raise UserError(f"{where}: there is no such file.")
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    if kind not in ("json", "jsonl"):
        raise UserError(f"{where} is of no known kind; give .json or .jsonl files, also with .gz.")
    try:
        with text.opened(path) as file:
            if kind == "jsonl":
                lines = ((number, line) for number, line in enumerate(file, 1) if line.strip())
                yield from (
                    parse(line, f"{where}, line {number},", error=UserError, halves=True) for number, line in lines
                )
            else:
                rows = parse(file.read(), where, error=UserError, halves=True)
                yield from rows if isinstance(rows, list) else [rows]
    except (OSError, EOFError, zlib.error, ValueError) as error:  # ValueError: no JSON, not UTF-8
        raise UserError(f"{where} cannot be read ({type(error).__name__}: {error}).") from error
