"""A BERT of 8 dimensions with a vocabulary of its own, and sentences whose sentiment one word decides."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bert import wordpiece
from experiments.data.sst2 import Sst2, Texts
from lora_jax.models import bert, bert_folder

WORDS = (
    *("the", "a", "film", "plot", "cast", "was", "is", "seems", "rather", "quite", "very", "long", "short", "slow"),
    *("quick", "and", "but", "with", "without", "music"),
)
GOOD, BAD = ("lovely", "brilliant", "moving"), ("dull", "awful", "tedious")


def texts(n: int, seed: int, lengths: tuple[int, int] = (3, 12)) -> Texts:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n).astype(np.int32)
    sentences = []
    for label in labels:
        words = list(rng.choice(WORDS, rng.integers(*lengths)))
        words.insert(int(rng.integers(len(words))), str(rng.choice(GOOD if label else BAD)))
        sentences.append(" ".join(words))
    return Texts(tuple(sentences), labels)


def data(train: int = 700, other: int = 60) -> Sst2:
    return Sst2(texts(train, 0), texts(other, 1), texts(other, 2), "made-up sentences", False, f"tiny {train} {other}")


def write(path: pathlib.Path, *, layers: int = 1, seed: int = 0) -> pathlib.Path:
    """A folder as Hugging Face has it, random weights of a size that gives every token a say."""
    letters = [mark + letter for mark in ("", "##") for letter in "abcdefghijklmnopqrstuvwxyz"]
    tokens = [
        *dict.fromkeys([*wordpiece.SPECIAL, *WORDS, *GOOD, *BAD, *letters])
    ]  # fixed: a trained vocabulary differs from run to run
    path.mkdir(exist_ok=True)
    (path / "vocab.txt").write_text("\n".join(tokens) + "\n")
    tokenizer = wordpiece.of_vocabulary(path / "vocab.txt")
    config = bert.BertConfig(
        tokenizer.get_vocab_size(), 8, layers, 2, 16, max_position_embeddings=64, layer_norm_eps=1e-5
    )
    params = bert.BertForMaskedLM(config).init(jax.random.key(seed), jnp.ones((1, 1), jnp.int32))["params"]
    params = jax.tree.map(lambda leaf: leaf * 10 if leaf.ndim == 2 else leaf, params)
    bert_folder.write(path, config, params)
    return path
