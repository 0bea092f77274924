"""What a student BERT is distilled from: a teacher's vectors for words and sentences, computed once, kept in files.

A word's vector is the mean over its pieces of the teacher's hidden states in the middle layer, so the student may cut words
in its own way. The last layer of a teacher of sentences has lost what a fine-tuning needs (compared in docs/decisions/data-and-sst2.md);
a sentence's vector is the mean of its states there. Both kinds are reduced to the student's width by PCA.
Letters: B examples, T tokens, W words.
"""

import dataclasses
import io
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers
from etils import epath
from tqdm import tqdm

from experiments.bert import base, wordpiece
from experiments.common.errors import UserError
from experiments.data.buckets import by_length
from lora_jax.files import write_atomically
from lora_jax.models import bert, bert_folder
from lora_jax.models.weight_files import locate

LENGTHS = (16, 32, 64)  # tokens; longer examples are cut
TOKENS_PER_BATCH = 4096
SHARD = 8192  # examples in a file
SPAN = (3, 12)  # words; half of the examples are such spans, as most of SST-2's are phrases


class Targets(NamedTuple):
    """Of N examples: `words[i]` are example i's, [W_i]; `word_vectors[i]` [W_i, D] and `sentence_vectors` [N, D] float16."""

    words: list[list[str]]
    word_vectors: list[np.ndarray]
    sentence_vectors: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Teacher:
    folder: bert_folder.BertFolder
    tokenizer: tokenizers.Tokenizer

    @property
    def middle(self) -> int:
        """The layer that words' vectors are taken from."""
        return max(1, self.folder.config.num_hidden_layers // 2)

    @property
    def embeddings(self) -> dict[str, np.ndarray]:
        """name -> [rows, D_teacher] of word, position and token type embeddings."""
        return {
            name: np.asarray(leaf["embedding"])
            for name, leaf in self.folder.params["bert"]["embeddings"].items()
            if name != "LayerNorm"
        }


def load(name: str) -> Teacher:
    """The teacher of a folder or hub name. Raises UserError for one that reads too few tokens."""
    path = locate(name)
    folder = base.read(path)
    if folder.config.max_position_embeddings < LENGTHS[-1]:
        raise UserError(
            f"--teacher={name}: it reads {folder.config.max_position_embeddings} tokens; at least {LENGTHS[-1]} are needed."
        )
    return Teacher(folder, wordpiece.of_folder(path, folder.config.vocab_size))


def examples(sentences: list[str], tokenizer: tokenizers.Tokenizer, shard: int, seed: int = 0) -> list[list[str]]:
    """The words of the examples of one shard: sentences that no other shard has, every other one cut to a random span."""
    order = np.random.default_rng(seed).permutation(len(sentences))
    rng = np.random.default_rng((seed, shard))
    chosen = wordpiece.words(tokenizer, [sentences[i] for i in order[shard * SHARD : (shard + 1) * SHARD]])
    return [_span(words, rng) if i % 2 else words for i, words in enumerate(chosen)]


def _span(words: list[str], rng: np.random.Generator) -> list[str]:
    length = min(len(words), int(rng.integers(SPAN[0], SPAN[1] + 1)))
    start = int(rng.integers(len(words) - length + 1))
    return words[start : start + length]


class Projector:
    """The teacher under jit, with a PCA basis for each kind of vector, fitted on the first examples it is given."""

    def __init__(self, teacher: Teacher, width: int, fit_on: list[list[str]]):
        self._teacher = teacher
        self._model = bert.BertModel(teacher.folder.config)
        self._run = jax.jit(self._vectors)
        of_words, of_sentences = self._raw(fit_on)
        self.word_basis = PCA(np.concatenate(of_words), width)
        self.sentence_basis = PCA(of_sentences, width)

    def __call__(self, words: list[list[str]]) -> Targets:
        of_words, of_sentences = self._raw(words)
        reduced = [self.word_basis(vectors).astype(np.float16) for vectors in of_words]
        kept = [sentence[: len(vectors)] for sentence, vectors in zip(words, reduced, strict=True)]
        return Targets(kept, reduced, self.sentence_basis(of_sentences).astype(np.float16))

    def _vectors(self, params, ids, word_of_token):
        """[B, W, D] means over pieces, W = T; [B, D] normalised means over all tokens, as this teacher was trained to compare."""
        states, _ = self._model.apply({"params": params}, ids, ids != 0)
        hidden = states[self._teacher.middle]
        pick = jax.nn.one_hot(word_of_token, ids.shape[1], axis=1, dtype=hidden.dtype)  # [B, W, T]; -1 gives zeros
        words = pick @ hidden / jnp.maximum(pick.sum(-1, keepdims=True), 1)
        real = (ids != 0).astype(hidden.dtype)
        sentence = (states[-1] * real[..., None]).sum(1)
        return words.astype(jnp.float16), sentence / jnp.linalg.norm(sentence, axis=-1, keepdims=True)

    def _raw(self, words: list[list[str]]) -> tuple[list[np.ndarray], np.ndarray]:
        encodings = self._teacher.tokenizer.encode_batch(words, is_pretokenized=True)
        of_words: list = [None] * len(words)
        of_sentences = np.zeros((len(words), self._teacher.folder.config.hidden_size), np.float32)
        for length, rows in by_length([len(e.ids) for e in encodings], LENGTHS):
            size = TOKENS_PER_BATCH // length
            for start in range(0, len(rows), size):
                part = rows[start : start + size]
                ids, owner = arrays([encodings[i] for i in part], size, length)
                vectors, sentence = map(np.asarray, self._run(self._teacher.folder.params["bert"], ids, owner))
                of_sentences[part] = sentence[: len(part)]
                for j, i in enumerate(part):
                    of_words[i] = vectors[j, : owner[j].max() + 1].astype(np.float32)
        return of_words, of_sentences


def arrays(encodings, size: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """ids [size, length], 0 where padded, and the word each token belongs to, -1 for none."""
    ids, owner = np.zeros((size, length), np.int32), np.full((size, length), -1, np.int32)
    for row, encoding in enumerate(encodings):
        n = min(len(encoding.ids), length)
        ids[row, :n] = encoding.ids[:n]
        owner[row, :n] = [-1 if word is None else word for word in encoding.word_ids[:n]]
    return ids, owner


class PCA:
    """Centres rows and turns them to their `width` leading principal directions. `share` of the variance is kept."""

    def __init__(self, rows: np.ndarray, width: int):
        self.mean = rows.mean(0)
        values, vectors = np.linalg.eigh(np.cov(rows.T))
        self.basis = vectors[:, ::-1][:, :width].astype(np.float32)
        self.share = float(values[::-1][:width].sum() / values.sum())

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        return (rows - self.mean) @ self.basis


def prepare(folder: epath.Path, teacher: Teacher, sentences: list[str], shards: int, width: int) -> list[epath.Path]:
    """Computes what is missing of the first `shards` files; an interrupted preparation goes on."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"layer{teacher.middle}_{shard:03d}.npz" for shard in range(shards)]
    missing = [shard for shard, file in enumerate(files) if not file.exists()]
    if not missing:
        return files
    project = Projector(teacher, width, examples(sentences, teacher.tokenizer, 0)[:2048])
    print(
        f"teacher: PCA keeps {project.word_basis.share:.1%} of words' variance, {project.sentence_basis.share:.1%} of sentences'",
        flush=True,
    )
    for shard in tqdm(missing, desc="teacher", unit="file", leave=False, disable=None):
        save(files[shard], project(examples(sentences, teacher.tokenizer, shard)))
    return files


def save(file: epath.Path, targets: Targets) -> None:
    """Atomically, as one flat array per kind."""
    content = io.BytesIO()
    np.savez(
        content,
        words=np.asarray(["\x01".join(words) for words in targets.words]),
        counts=np.asarray([len(words) for words in targets.words], np.int32),
        word_vectors=np.concatenate(targets.word_vectors),
        sentence_vectors=targets.sentence_vectors,
    )
    write_atomically(file, content.getvalue())


def read(file: epath.Path) -> Targets:
    """The inverse of `save`."""
    with file.open("rb") as content, np.load(content) as arrays:
        ends = np.cumsum(arrays["counts"])[:-1]
        words = [text.split("\x01") for text in arrays["words"].tolist()]
        return Targets(words, np.split(arrays["word_vectors"], ends), arrays["sentence_vectors"])
