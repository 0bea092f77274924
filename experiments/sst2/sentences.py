"""Sentences in a user's own files: tables of sentences and labels to train on (`tables`), plain lines or tables to classify."""

import hashlib
import json
from typing import Any

import numpy as np
from etils import epath

from experiments.common.errors import UserError
from experiments.data.sst2 import Sst2, Texts
from experiments.sst2 import labels, tables
from experiments.sst2.labels import Labels

VALIDATION_SHARE = 0.1  # of a training file that comes without a validation file


def load(
    train_file: str,
    validation_file: str | None = None,
    *,
    text_field: str | None = None,
    label_field: str | None = None,
) -> Sst2:
    """The user's files as training and validation; `tuning` is empty. Prints one line that says what they are.

    Args:
      validation_file: without it a tenth of the training file, a fixed draw of distinct sentences.
      text_field, label_field: columns; without them those with a name that says so.

    Raises:
      UserError: as `read`; where some label has no sentence to train on.
    """
    wanted = tables.columns(text_field, label_field)
    train, known = read(train_file, wanted=wanted)
    if validation_file is None:
        train, validation = _cut(train)
        how = f"of {train_file}, a tenth of which is cut off for validation"
    else:
        validation, _ = read(validation_file, "--validation_file", wanted=wanted, known=known)
        how = f"of {train_file}, validation of {validation_file}"
    _require_every_label(f"--train_file: {train_file}", train, known)
    classes = "" if known.written == ("0", "1") else f"; {len(known.words)} classes: {labels.listed(known.words)}"
    source = f"{len(train.labels):,} training and {len(validation.labels):,} validation sentences, {how}{classes}"
    print(f"data: {source}", flush=True)
    _tell_overlap(train, validation)
    tuning = Texts((), np.zeros(0, np.int32))
    return Sst2(train, tuning, validation, source, False, _checksum(known, train, validation), known.words)


def read(
    path: str,
    flag: str = "--train_file",
    *,
    wanted: tuple[tables.Column, ...] = tables.columns(),
    known: Labels | None = None,
) -> tuple[Texts, Labels]:
    """(the labelled sentences of a file, stripped, in order; their labels); empty ones are skipped, which a printed line says.

    Args:
      flag: that named the file, for messages.
      known: the labels there may be; without it those that are found.

    Raises:
      UserError: for a file that is missing, of another kind, not UTF-8, without the columns, with a label that is none, or without any sentence.
    """
    where, kind = f"{flag}: {path}", epath.Path(path).suffix.lower()
    text = _decoded(path, where)
    if kind not in tables.KINDS:
        raise UserError(
            f"{where} is of no known kind; give {', '.join(tables.KINDS)} with a column of texts and one of labels."
        )
    sentences, lines, words, empty = [], [], [], 0
    for line, (sentence, label) in tables.rows(where, kind, text, wanted):
        stripped = _stripped(where, line, sentence)
        if stripped:
            sentences.append(stripped)
            lines.append(line)
            words.append(labels.word(where, line, label))
        empty += not stripped
    _settle_empty(where, len(sentences), empty)
    known = labels.of(where, words) if known is None else known
    return Texts(tuple(sentences), known.numbers(where, lines, words)), known


def read_lines(path: str, flag: str = "--sentences", *, text_field: str | None = None) -> tuple[str, ...]:
    """The lines of a text file, or the texts of a table, stripped; the empty ones are skipped, which a printed line says.

    Raises:
      UserError: for a file that is missing, not UTF-8, or without any sentence.
    """
    where, kind = f"{flag}: {path}", epath.Path(path).suffix.lower()
    text = _decoded(path, where)
    if kind in tables.KINDS:
        found = tables.rows(where, kind, text, tables.columns(text_field)[:1])
        lines = [_stripped(where, line, sentence) for line, (sentence,) in found]
    else:
        lines = [line.strip() for line in text.strip().split("\n")]
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


def _stripped(where: str, line: int, sentence: Any) -> str:
    if not isinstance(sentence, str):
        raise UserError(f"{where}: the sentence of line {line} is {labels.shown(sentence)}, and no text.")
    if any("\ud800" <= letter <= "\udfff" for letter in sentence):  # JSON can spell them, tokenizers take no such text
        raise UserError(f"{where}: the sentence of line {line} holds half a surrogate pair, which is no character.")
    return sentence.strip()


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


def _require_every_label(where: str, train: Texts, known: Labels) -> None:
    if len(known.written) < 2:
        raise UserError(
            f"{where}: all {len(train.labels):,} training sentences have the label {labels.shown(known.written[0])}; "
            "a classifier is trained on sentences of two labels or more."
        )
    missing = sorted(set(range(len(known.written))) - set(train.labels.tolist()))
    if missing:
        raise UserError(
            f"{where}: of the {len(train.labels):,} training sentences none has the label {labels.shown(known.written[missing[0]])}; "
            "give more sentences of it."
        )


def _tell_overlap(train: Texts, validation: Texts) -> None:
    known = {_key(sentence) for sentence in train.sentences}
    shared = sum(_key(sentence) in known for sentence in validation.sentences)
    if shared:
        print(
            f"data: {shared:,} of {len(validation.labels):,} validation sentences are trained on, too; "
            "accuracy on them says nothing of new ones",
            flush=True,
        )


def _checksum(known: Labels, *splits: Texts) -> str:
    """SHA-256 over sentences and labels."""
    digest = hashlib.sha256()
    if known.written != ("0", "1"):
        digest.update(json.dumps(known.words).encode())
    for texts in splits:
        digest.update(json.dumps([texts.sentences, texts.labels.tolist()]).encode())
    return digest.hexdigest()
