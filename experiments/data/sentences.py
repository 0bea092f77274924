"""Sentences in a user's own files: tables of sentences and labels to train on, plain lines to classify.

A table is `.tsv` as GLUE has it (a header, no quoting), `.csv` (a header, quoting as in RFC 4180) or `.jsonl` (an object a
line), each with a `sentence` and a `label`, 0 negative or 1 positive; other columns may lie beside them.
"""

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from etils import epath

from experiments.common.errors import UserError
from experiments.data.sst2 import Sst2, Texts

COLUMNS = ("sentence", "label")
LABELS = ("0", "1")
VALIDATION_SHARE = 0.1  # of a training file that comes without a validation file
Row = tuple[int, Any, Any]  # line, sentence, label, as the file has them


def load(train_file: str, validation_file: str | None = None) -> Sst2:
    """The user's files as training and validation; `tuning` is empty. Prints one line that says what they are.

    Args:
      validation_file: without it a tenth of the training file, a fixed draw of distinct sentences.

    Raises:
      UserError: as `read`; where training has not both labels.
    """
    train = read(train_file)
    if validation_file is None:
        train, validation = _cut(train)
        how = f"of {train_file}, a tenth of which is cut off for validation"
    else:
        validation = read(validation_file, "--validation_file")
        how = f"of {train_file}, validation of {validation_file}"
    _require_both_labels(f"--train_file: {train_file}", train)
    source = f"{len(train.labels):,} training and {len(validation.labels):,} validation sentences, {how}"
    print(f"data: {source}", flush=True)
    _tell_overlap(train, validation)
    tuning = Texts((), np.zeros(0, np.int32))
    return Sst2(train, tuning, validation, source, False, _checksum(train, validation))


def read(path: str, flag: str = "--train_file") -> Texts:
    """The labelled sentences of a file, stripped, in order; the empty ones are skipped, which a printed line says.

    Args:
      flag: that named the file, for messages.

    Raises:
      UserError: for a file that is missing, of another kind, not UTF-8, without the columns, with a label that is neither
        0 nor 1, or without any sentence.
    """
    where = f"{flag}: {path}"
    rows_of = KINDS.get(epath.Path(path).suffix.lower())
    text = _decoded(path, where)
    if rows_of is None:
        raise UserError(f"{where} is of no known kind; give {', '.join(KINDS)} with columns {' and '.join(COLUMNS)}.")
    sentences, labels, empty = [], [], 0
    for line, sentence, label in rows_of(where, text):
        stripped = _stripped(where, line, sentence)
        if stripped:
            sentences.append(stripped)
            labels.append(_label(where, line, label))
        empty += not stripped
    _settle_empty(where, len(sentences), empty)
    return Texts(tuple(sentences), np.asarray(labels, np.int32))


def read_lines(path: str, flag: str = "--sentences") -> tuple[str, ...]:
    """The lines of a text file, stripped; the empty ones are skipped, which a printed line says.

    Raises:
      UserError: for a file that is missing, not UTF-8, or without any sentence.
    """
    where = f"{flag}: {path}"
    lines = [line.strip() for line in _decoded(path, where).strip().split("\n")]
    sentences = tuple(filter(None, lines))
    _settle_empty(where, len(sentences), len(lines) - len(sentences))
    return sentences


def _decoded(path: str, where: str) -> str:
    """The file's text; a byte order mark, which spreadsheets write, is no part of it."""
    file = epath.Path(path)
    if not file.is_file():
        raise UserError(f"{where}: there is no such file.")
    try:
        content = file.read_bytes()
        return content.decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{where} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{where} is not UTF-8: line {line} has the byte 0x{error.object[error.start]:02x}; save it as UTF-8."
        ) from error


def _table(where: str, text: str, **dialect: Any) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, **dialect)
    try:
        names = [name.strip() for name in next(reader, [])]
        sentence, label = _positions(where, names)
        for values in reader:
            if len(values) <= 1 and not "".join(values).strip():
                continue  # a blank line
            if len(values) != len(names):
                raise UserError(
                    f"{where}: line {reader.line_num} has {len(values)} columns, and the header has {len(names)}."
                )
            yield reader.line_num, values[sentence], values[label]
    except csv.Error as error:
        raise UserError(f"{where}: line {reader.line_num} cannot be read as a table ({error}).") from error


def _positions(where: str, names: Sequence[str]) -> list[int]:
    """Where the columns are in the header."""
    missing = [column for column in COLUMNS if column not in names]
    if missing:
        found = f"its first line names {', '.join(map(repr, names))}" if names else "the file is empty"
        raise UserError(f"{where}: there is no column {' and no '.join(map(repr, missing))}; {found}.")
    return [names.index(column) for column in COLUMNS]


def _tsv(where: str, text: str) -> Iterator[Row]:
    return _table(where, text, delimiter="\t", quoting=csv.QUOTE_NONE)


def _csv(where: str, text: str) -> Iterator[Row]:
    return _table(where, text)


def _jsonl(where: str, text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where}: line {number} is no JSON ({error}).") from error
        if not isinstance(row, dict):
            raise UserError(f"{where}: line {number} is no object with {' and '.join(COLUMNS)}.")
        missing = [name for name in COLUMNS if name not in row]
        if missing:
            raise UserError(
                f"{where}: line {number} has no {' and no '.join(map(repr, missing))}; "
                f"it has {', '.join(map(repr, row)) or 'nothing'}."
            )
        yield number, row["sentence"], row["label"]


KINDS: dict[str, Callable[[str, str], Iterator[Row]]] = {".tsv": _tsv, ".csv": _csv, ".jsonl": _jsonl}


def _stripped(where: str, line: int, sentence: Any) -> str:
    if not isinstance(sentence, str):
        raise UserError(f"{where}: the sentence of line {line} is {_shown(sentence)}, and no text.")
    if any("\ud800" <= letter <= "\udfff" for letter in sentence):  # JSON can spell them, tokenizers take no such text
        raise UserError(f"{where}: the sentence of line {line} holds half a surrogate pair, which is no character.")
    return sentence.strip()


def _label(where: str, line: int, label: Any) -> int:
    """0 or 1, as a number or as its digit."""
    if str(label).strip() not in LABELS:
        raise UserError(
            f"{where}: the label of line {line} is {_shown(label)}; it must be 0 (negative) or 1 (positive)."
        )
    return int(label)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def _settle_empty(where: str, kept: int, empty: int) -> None:
    """Says how many empty sentences are skipped; UserError where no other is left."""
    if not kept:
        raise UserError(f"{where}: there is no sentence in it{f', only {empty:,} empty ones' if empty else ''}.")
    if empty:
        print(f"{where}: {empty:,} empty sentence{'s' * (empty > 1)} skipped", flush=True)


def _cut(texts: Texts) -> tuple[Texts, Texts]:
    """Training and validation; a sentence that comes twice is on one side."""
    _, number = np.unique([_key(sentence) for sentence in texts.sentences], return_inverse=True)
    distinct = number.max() + 1
    place = np.random.default_rng(0).permutation(distinct)
    is_validation = place[number] < max(1, round(VALIDATION_SHARE * distinct))
    return texts.where(~is_validation), texts.where(is_validation)


def _key(sentence: str) -> str:
    """What two sentences share that count as the same."""
    return sentence.lower()


def _require_both_labels(where: str, train: Texts) -> None:
    labels = np.unique(train.labels).tolist()
    if len(labels) < len(LABELS):
        found = f"all {len(train.labels):,} training sentences have label {labels[0]}" if labels else "none is left"
        raise UserError(f"{where}: {found}; a classifier is trained on sentences of both labels, 0 and 1.")


def _tell_overlap(train: Texts, validation: Texts) -> None:
    known = {_key(sentence) for sentence in train.sentences}
    shared = sum(_key(sentence) in known for sentence in validation.sentences)
    if shared:
        print(
            f"data: {shared:,} of {len(validation.labels):,} validation sentences are trained on, too; "
            "accuracy on them says nothing of new ones",
            flush=True,
        )


def _checksum(*splits: Texts) -> str:
    """SHA-256 over sentences and labels."""
    digest = hashlib.sha256()
    for texts in splits:
        digest.update(json.dumps([texts.sentences, texts.labels.tolist()]).encode())
    return digest.hexdigest()
