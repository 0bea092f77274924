"""What a small BERT is pretrained on: text and, under a teacher, its vectors, as arrays in length buckets.

Letters: N examples, T tokens, D width.
"""

import dataclasses
import functools
import hashlib
from typing import Any

import numpy as np
from etils import epath

from experiments.bert import teacher as bert_teacher
from experiments.bert import wordpiece
from experiments.bert.teacher import LENGTHS
from experiments.data import text
from experiments.data.buckets import by_length

HELD_OUT = 2048  # examples of the first file, which is never trained on


@dataclasses.dataclass(frozen=True)
class Material:
    """What is learned from: text files, where a .jsonl line has its text, and the teacher's folder, if any."""

    corpus: tuple[str, ...]
    field: str
    teacher: epath.Path | None

    @functools.cached_property
    def checksum(self) -> str:
        """SHA-256 over the text, where it stands, and the teacher's files."""
        files = [] if self.teacher is None else sorted(str(path) for path in self.teacher.glob("*.*") if path.is_file())
        return hashlib.sha256(f"{self.field} {text.checksum([*self.corpus, *files])}".encode()).hexdigest()

    def record(self) -> dict[str, Any]:
        """What a summary says about it."""
        return {
            "corpus": [epath.Path(path).name for path in self.corpus],
            "field": self.field,
            "teacher": None if self.teacher is None else self.teacher.parent.name + "/" + self.teacher.name,
            "sha256": self.checksum,
        }


def load(cache: epath.Path, settings: Any, sentences, teacher, tokenizer):
    """(held out, train), each a list of buckets {"ids" [N, T], and for distillation "words" [N, T, D], "sentence" [N, D]}."""
    if teacher is None:
        shards = [
            bert_teacher.Targets(bert_teacher.examples(sentences, tokenizer, s), None, None)
            for s in range(settings.shards)
        ]
    else:
        files = bert_teacher.prepare(cache, teacher, sentences, settings.shards, settings.hidden_size)
        shards = list(map(bert_teacher.read, files))
    first = arrays(tokenizer, [_head(shards[0], HELD_OUT)])
    return first, arrays(tokenizer, shards[1:])


def _head(targets: bert_teacher.Targets, n: int) -> bert_teacher.Targets:
    return bert_teacher.Targets(*(part if part is None else part[:n] for part in targets))


def arrays(tokenizer, shards: list[bert_teacher.Targets]) -> list[dict[str, np.ndarray]]:
    words = [sentence for shard in shards for sentence in shard.words]
    encodings = tokenizer.encode_batch(words, is_pretokenized=True)
    has_targets = shards[0].word_vectors is not None
    vectors = [v for shard in shards for v in shard.word_vectors] if has_targets else None
    sentence = np.concatenate([shard.sentence_vectors for shard in shards]) if has_targets else None
    buckets = []
    for length, rows in by_length([len(e.ids) for e in encodings], LENGTHS):
        ids, owner = bert_teacher.arrays([encodings[i] for i in rows], len(rows), length)
        bucket = {"ids": ids}
        if has_targets:
            bucket |= {"words": _at_first_pieces(owner, [vectors[i] for i in rows]), "sentence": sentence[rows]}
        buckets.append(bucket)
    return buckets


def _at_first_pieces(owner: np.ndarray, vectors: list[np.ndarray]) -> np.ndarray:
    """[N, T, D] float16: a word's vector where its first piece stands, zeros elsewhere."""
    placed = np.zeros((*owner.shape, vectors[0].shape[1]), np.float16)
    for row, (word, vector) in enumerate(zip(owner, vectors, strict=True)):
        first = (word >= 0) & (word < len(vector)) & (word != np.r_[-2, word[:-1]])
        placed[row, first] = vector[word[first]]
    return placed


def unigram_loss(train, held_out, tokenizer) -> float:
    """The loss of a model that knows how frequent tokens are, and nothing else."""
    size = tokenizer.get_vocab_size()
    special = [tokenizer.token_to_id(token) for token in wordpiece.SPECIAL]

    def counts(buckets) -> np.ndarray:
        total = sum(np.bincount(data["ids"].reshape(-1), minlength=size) for data in buckets).astype(float)
        total[special] = 0
        return total

    seen, asked = counts(train) + 1, counts(held_out)
    return float(-(asked * np.log(seen / seen.sum())).sum() / asked.sum())
