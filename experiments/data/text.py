"""Plain English from files: documents, and the sentences in them."""

import contextlib
import gzip
import hashlib
import io
import re
import zlib
from collections.abc import Iterator, Sequence
from typing import IO

from etils import epath

from experiments.common.errors import UserError
from lora_jax.files import parse

BLANK = re.compile(r"\n\s*\n")
SENTENCE_END = re.compile(r"(?<=[.!?])[”’\"']?\s+(?=[“‘\"'A-Z])")


def require(paths: Sequence[str]) -> None:
    """UserError for a file that is not there, or of a kind that is not read."""
    for path in map(epath.Path, paths):
        if not path.is_file():
            raise UserError(f"--corpus: there is no file {path}.")
        if _kind(path) not in ("txt", "jsonl"):
            raise UserError(f"--corpus: {path} is of no known kind; give .txt or .jsonl files, also with .gz.")


def _kind(path: epath.Path) -> str:
    return path.name.removesuffix(".gz").rpartition(".")[2]


@contextlib.contextmanager
def opened(path: epath.Path) -> Iterator[IO[str]]:
    """The UTF-8 text of a file here or in a bucket, its byte order mark left out, unpacked where its name ends in .gz."""
    with path.open("rb") as stored, contextlib.ExitStack() as closing:
        content = closing.enter_context(gzip.open(stored)) if path.name.endswith(".gz") else stored
        yield closing.enter_context(io.TextIOWrapper(content, encoding="utf-8-sig"))


def documents(paths: Sequence[str], field: str = "text") -> Iterator[str]:
    """Every document of `.txt` (blank lines are between them) and `.jsonl` files (one a line, under `field`), gzipped or not.

    Raises:
      UserError: for a file that is missing, of another kind, damaged, not UTF-8, or without the field.
    """
    require(paths)
    for path in map(epath.Path, paths):
        kind = _kind(path)
        try:
            with opened(path) as file:
                if kind == "txt":
                    yield from _paragraphs(file.read())
                else:
                    yield from (_field(path, n, line, field) for n, line in enumerate(file, 1) if line.strip())
        except (OSError, UnicodeDecodeError, EOFError, zlib.error) as error:
            raise UserError(f"--corpus: {path} cannot be read ({type(error).__name__}: {error}).") from error


def _paragraphs(text: str) -> list[str]:
    """What blank lines part.

    >>> _paragraphs("one\\nline\\n\\n  \\nanother\\n")
    ['one\\nline', 'another']
    """
    return [part.strip() for part in BLANK.split(text) if part.strip()]


def _field(path: epath.Path, number: int, line: str, field: str) -> str:
    row = parse(line, f"--corpus: line {number} of {path}", error=UserError)
    if not isinstance(row, dict) or not isinstance(row.get(field), str):
        names = ", ".join(sorted(row)) if isinstance(row, dict) else type(row).__name__
        raise UserError(f"--corpus: line {number} of {path} has no text under {field!r}, only {names}; see --field.")
    return row[field]


def sentences(paths: Sequence[str], field: str = "text", *, min_words: int = 4, max_words: int = 40) -> list[str]:
    """The sentences of a fitting length, in order; paragraphs end sentences.

    A sentence ends at . ! or ? before a blank and a capital: abbreviations cut some short, which a language model
    does not mind.
    """
    found = []
    for document in documents(paths, field):
        for paragraph in document.split("\n"):
            for sentence in SENTENCE_END.split(paragraph):
                if min_words <= sentence.count(" ") + 1 <= max_words:
                    found.append(sentence.strip())
    if not found:
        raise UserError(f"--corpus: there is no sentence of {min_words} to {max_words} words in {', '.join(paths)}.")
    return found


def checksum(paths: Sequence[str]) -> str:
    """SHA-256 over the files' bytes."""
    digest = hashlib.sha256()
    for path in paths:
        with epath.Path(path).open("rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                digest.update(block)
    return digest.hexdigest()
