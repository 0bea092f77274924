"""The text a language model is pretrained on: documents, a tokenizer trained on them, rows to train and to hold out."""

import dataclasses
import functools
import hashlib
from typing import Any

import numpy as np
import tokenizers
from etils import epath

from experiments.common.errors import UserError
from experiments.data import packing, text
from experiments.lm import bpe, docstrings

HELD_OUT = 50  # every 50th document is never trained on


@dataclasses.dataclass(frozen=True)
class Source:
    """Text files, or without any what is installed here: docstrings and Python's help topics."""

    corpus: tuple[str, ...] = ()
    field: str = "text"

    @functools.cached_property
    def documents(self) -> list[str]:
        found = list(text.documents(self.corpus, self.field)) if self.corpus else docstrings.documents()
        found = [document.strip() for document in found if document.strip()]
        if len(found) < 2:
            raise UserError(
                f"--corpus: {len(found)} documents in {', '.join(self.corpus)}; at least 2 are needed, one to hold out: "
                "in a .txt file they are apart by blank lines, in a .jsonl file each has a line."
            )
        return found

    @functools.cached_property
    def checksum(self) -> str:
        """SHA-256 over the documents."""
        digest = hashlib.sha256()
        for document in self.documents:
            digest.update(document.encode())
            digest.update(b"\0")
        return digest.hexdigest()

    def record(self) -> dict[str, Any]:
        """What a summary says about it."""
        names = [epath.Path(path).name for path in self.corpus]
        return {
            "source": names or "docstrings of installed packages and Python's help topics",
            "documents": len(self.documents),
            "characters": sum(map(len, self.documents)),
            "sha256": self.checksum,
        }

    def split(self) -> tuple[list[str], list[str]]:
        """(train, held out): every `HELD_OUT`-th document, by a hash of its text, so that order does not matter."""
        by_hash = sorted(self.documents, key=lambda document: hashlib.sha256(document.encode()).digest())
        count = max(1, len(by_hash) // HELD_OUT)
        return by_hash[count:], by_hash[:count]


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """What pretraining takes: packed rows, and the number of bytes that the held-out targets stand for."""

    train: packing.Rows
    held_out: packing.Rows
    held_out_bytes: int


def encode(tokenizer: tokenizers.Tokenizer, documents: list[str], length: int) -> packing.Rows:
    """Documents as full rows, each document closed by <end>."""
    end = tokenizer.token_to_id(bpe.END)
    encodings = tokenizer.encode_batch(documents, add_special_tokens=False)
    return packing.stream(([*encoding.ids, end] for encoding in encodings), length)


def rows(tokenizer: tokenizers.Tokenizer, source: Source, length: int, tokens: int, held_out_tokens: int) -> Rows:
    """At most so many tokens of each part.

    Raises:
      UserError: for a text too short for a row of each.
    """
    train, held_out = (
        encode(tokenizer, documents, length).part(slice(limit // length))
        for documents, limit in zip(source.split(), (tokens, held_out_tokens), strict=True)
    )
    if not len(train.ids) or not len(held_out.ids):
        raise UserError(
            f"the corpus is too short: it fills no row of {length} tokens in training or in what is held out."
        )
    return Rows(train, held_out, _bytes(tokenizer, held_out))


def _bytes(tokenizer: tokenizers.Tokenizer, rows: packing.Rows) -> int:
    """How many bytes the scored targets stand for: a byte-level token has a character for each; <end> none."""
    lengths = np.zeros(tokenizer.get_vocab_size(), np.int64)
    for token, number in tokenizer.get_vocab().items():
        lengths[number] = 0 if token in bpe.SPECIAL else len(token)
    row, place = np.nonzero(rows.scored)
    return int(lengths[rows.ids[row, place + 1]].sum())
