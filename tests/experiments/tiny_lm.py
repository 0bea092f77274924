"""A language model of 16 dimensions with a tokenizer of its own, and questions whose answers one word decides."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.data.questions import Pair, Pairs
from experiments.lm import answers, bpe
from experiments.lm import corpus as lm_text
from experiments.lm import pretraining as lm_pretraining
from experiments.lm import speaker as lm_speaker
from lora_jax.models import causal_folder, causal_lm
from lora_jax.models.causal_lm import CausalLM, CausalLMConfig

COLORS = ("red", "green", "blue", "black", "white", "brown", "yellow", "grey")
THINGS = ("car", "house", "bird", "door", "stone", "coat", "lamp", "boat", "tree", "cup")
CONFIG = CausalLMConfig(400, 16, 24, 2, 2, 1, 64)
PRETRAINING = lm_pretraining.Settings("0.3M", 32, 2, 4_000, epochs=2, held_out_tokens=200, learning_rate=1e-2)


def at_home(path: pathlib.Path, patch: pytest.MonkeyPatch) -> None:
    """Small presets under the name "smoke"; in `path`, things.jsonl to pretrain on and questions.json."""
    patch.setitem(causal_lm.PRESETS, "0.3M", CONFIG)
    patch.setitem(lm_pretraining.PRESETS, "smoke", PRETRAINING)
    corpus(path)
    rows = [{"instruction": pair.question, "input": "", "output": pair.answer} for pair in pairs().pairs]
    (path / "questions.json").write_text(json.dumps(rows))


def pairs(n: int = 80) -> Pairs:
    """What colour a thing with a number has."""
    rng = np.random.default_rng(0)
    asked = [f"the {THINGS[i % 10]} {i} is {rng.choice(COLORS)}" for i in range(n)]
    found = tuple(Pair(f"What about {text.rpartition(' is ')[0]}?", f"It is {text.split()[-1]}.") for text in asked)
    return Pairs(found, {}, "made-up questions")


def corpus(path: pathlib.Path) -> lm_text.Source:
    """Sentences about things, one document each."""
    lines = [
        f"The {thing} is {color} and the {color} {thing} is old. {year} times it was {color}, and never of another color."
        for thing in THINGS
        for color in COLORS
        for year in (3, 7)
    ]
    (path / "things.jsonl").write_text("\n".join(json.dumps({"text": line}) for line in lines))
    return lm_text.Source((str(path / "things.jsonl"),))


def base(path: pathlib.Path) -> lm_speaker.Base:
    """Random weights large enough for every token to have a say, as `--job=pretrain` would leave them."""
    tokenizer = bpe.trained([f"{pair.question} {pair.answer}" for pair in pairs().pairs], CONFIG.vocab_size)
    params = CausalLM(CONFIG).init(jax.random.key(0), jnp.ones((1, 4), jnp.int32))["params"]
    params = jax.tree.map(lambda leaf: 4 * leaf if leaf.ndim > 1 else leaf, params)
    causal_folder.write(path, CONFIG, params, beside=bpe.beside(tokenizer), about=bpe.about(tokenizer))
    return lm_speaker.load(path)


def encoded(of: lm_speaker.Base, length: int = 48) -> answers.Encoded:
    return answers.encode(of.tokenizer, pairs().pairs, length)
