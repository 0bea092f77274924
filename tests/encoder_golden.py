"""The golden RoBERTa and DistilBERT, what `transformers` computed with them (golden/make_encoders.py), and the same models here."""

import functools
import json
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from lora_jax.models import bert_folder
from tests.bert_golden import GOLDEN

NAMES = ("roberta_odd", "roberta_odd_mlm", "distilbert_odd", "distilbert_odd_mlm")
every_folder = pytest.mark.parametrize("name", NAMES)
classifiers = pytest.mark.parametrize("name", NAMES[::2])
SIZES = {"vocab_size": 11, "hidden_size": 4, "intermediate_size": 8}
KINDS = {
    "roberta": {"model_type": "roberta", "type_vocab_size": 1},
    "distilbert": {"model_type": "distilbert", "type_vocab_size": 0},
}
WORDS = ("awful", "bad", "fair", "good", "great")


@functools.cache
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "encoder_outputs.npz") as arrays:
        return {name: arrays[name] for name in arrays.files}


@functools.cache
def folder(name):
    return bert_folder.read(GOLDEN / name)


@functools.cache
def loaded(name):
    return bert_folder.model_of(folder(name))


def inputs():
    return jnp.asarray(golden()["ids"]), jnp.asarray(golden()["mask"])


def real():
    return golden()["mask"] == 1


def logits(name, *args, dtype=jnp.float32, **kwargs):
    model, params = loaded(name)
    return model.clone(dtype=dtype).apply({"params": params}, *(args or inputs()), **kwargs)


def states(name):
    model, params = loaded(name)
    return model.apply({"params": params}, *inputs(), method=lambda module, *given: module.bert(*given)[0])


def folder_of(path: pathlib.Path, name: str, change=lambda tensors: tensors, **config) -> pathlib.Path:
    """A folder like the golden one, with other tensors, or changes to its config (... takes a field away)."""
    path.mkdir(exist_ok=True)
    about = {**json.loads((GOLDEN / name / "config.json").read_text()), **config}
    (path / "config.json").write_text(json.dumps({key: value for key, value in about.items() if value is not ...}))
    safetensors.numpy.save_file(change(tensors_of(name)), path / "model.safetensors")
    return path


def tensors_of(name):
    return safetensors.numpy.load_file(GOLDEN / name / "model.safetensors")
