"""The 3 M language model: random weights, 16 rows of 256 tokens, r = 8 on every linear layer, AdamW.

Speed depends on neither weights nor ids. Letters: N rows, T tokens.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lora_jax
from experiments.benchmarks import setting
from experiments.common import scored_tokens
from experiments.common.projections import LINEAR
from experiments.data import packing
from lora_jax.models.causal_lm import PRESETS, CausalLM

CONFIG, LARGE = PRESETS["3M"], PRESETS["26M"]
BATCH, TOKENS, RANK, RATE = 16, 256, 8, 1e-3
ROWS = 64
EXAMPLES = 32  # of instructions, in a batch
# Alpaca's questions and answers in tokens, special ones included, as quantiles at 0, 5 ... 100 %, of the 96 % of its pairs that fit
# into 256 tokens of a tokenizer trained as `tiny_lm.py --size=3M` does (on OpenStax and Standard Ebooks).
QUESTION = (6, 11, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 24, 26, 27, 30, 32, 36, 41, 52, 245)
ANSWER = (2, 6, 9, 12, 14, 18, 22, 26, 32, 40, 51, 62, 74, 84, 95, 105, 117, 131, 147, 172, 247)


def model() -> CausalLM:
    return CausalLM(CONFIG)


def large() -> CausalLM:
    """The study's own size."""
    return CausalLM(LARGE)


def base(of: CausalLM | None = None) -> dict:
    return jax.jit((of or model()).init)(jax.random.key(3), example())["params"]


def example() -> jax.Array:
    """Ids that show a model its input, [1, 8]."""
    return jnp.ones((1, 8), jnp.int32)


def wrapped(of: CausalLM | None = None) -> lora_jax.LoRA:
    return lora_jax.LoRA(of or model(), lora_jax.LoRAConfig(rank=RANK, alpha=RANK, targets=LINEAR))


def full_rows(tokens: int | None = None, rows: int | None = None, below: int | None = None) -> dict[str, jax.Array]:
    """Noise, ids below the vocabulary's size or another; one document a row, every token but the first to be predicted."""
    shape = rows or ROWS, tokens or TOKENS
    ids = jax.random.randint(jax.random.key(0), shape, 0, below or CONFIG.vocab_size, jnp.int32)
    scored = jnp.ones(shape, bool).at[:, -1].set(False)
    return {"ids": ids, "segments": jnp.ones_like(ids), "scored": scored}


def lora(data: dict[str, jax.Array] | None = None, batch: int = BATCH, of: CausalLM | None = None) -> setting.Rival:
    """On full rows, or on the rows that are given."""
    data = full_rows() if data is None else data
    objective = scored_tokens.whole_rows if "scored" in data else scored_tokens.gathered
    adapted = wrapped(of)
    params = setting.adapted(adapted, base(of), example())
    return _rival(objective(adapted), params, "", data, batch)


def full(batch: int = BATCH, of: CausalLM | None = None, data: dict[str, jax.Array] | None = None) -> setting.Rival:
    data = full_rows() if data is None else data
    return _rival(scored_tokens.whole_rows(of or model()), base(of), "*", data, batch)


def _rival(loss, params, train: str, data, batch: int) -> setting.Rival:
    mask = lora_jax.trainable_mask(params, train=(train,) if train else ())
    return setting.rival(loss, optax.adamw(RATE), params, mask, data, batch)


def lengths(count: int) -> list[tuple[int, int]]:
    """(tokens of the question, tokens of the answer) of so many instructions, each short enough for a row."""
    rng = np.random.default_rng(0)
    found: list[tuple[int, int]] = []
    while len(found) < count:
        question, answer = (round(float(np.quantile(of, rng.random()))) for of in (QUESTION, ANSWER))
        if question + answer <= TOKENS:
            found.append((question, answer))
    return found


def packed(of: list[tuple[int, int]]) -> dict[str, jax.Array]:
    """Instructions of these lengths as rows; noise."""
    rng = np.random.default_rng(1)
    examples = [packing.Example.of_pair(*np.split(rng.integers(4, CONFIG.vocab_size, q + a), [q])) for q, a in of]
    rows, _ = packing.place(examples, TOKENS)
    return jax.tree.map(jnp.asarray, packing.gathered(rows))
