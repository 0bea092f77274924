"""The golden Llamas, what `transformers` computed with them (golden/make_llama.py), and the same models here."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from lora_jax.models import causal_folder
from lora_jax.models.causal_lm import CausalLM
from tests.bert_golden import GOLDEN

NAMES = ("llama_tied", "llama_untied")
TOLERANCE = 2e-5


@functools.cache
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "llama_outputs.npz") as arrays:
        return {name: arrays[name] for name in arrays.files}


@functools.cache
def folder(name: str = "llama_tied") -> causal_folder.CausalFolder:
    return causal_folder.read(GOLDEN / name)


def model(name: str = "llama_tied", **options) -> CausalLM:
    return CausalLM(folder(name).config, **options)


def ids() -> jax.Array:
    """[3, 13]."""
    return jnp.asarray(golden()["ids"])


def logits(name: str = "llama_tied", *args, params=None, **options) -> jax.Array:
    return model(name, **options).apply({"params": params or folder(name).params}, *(args or (ids(),)))
