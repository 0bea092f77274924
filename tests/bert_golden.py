"""The golden BERTs, what `transformers` computed with them (golden/make_bert.py), and the same models here.

Not jitted: XLA then compiles each operation once for all tests, and not each model anew.
"""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from lora_jax.models import bert_folder
from lora_jax.models.bert import BertForMaskedLM, BertForSequenceClassification, BertModel
from tests.cases import flat

GOLDEN = pathlib.Path(__file__).parent / "golden"
TOLERANCE = 1e-5
LABELS = 5
NEARLY_ALL = 1 - 1e-9  # a dropout rate at which nothing of these few numbers stays


@functools.cache
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "bert_outputs.npz") as arrays:
        return {name: arrays[name] for name in arrays.files}


@functools.cache
def folder(name: str = "bert_odd") -> bert_folder.BertFolder:
    return bert_folder.read(GOLDEN / name)


def inputs() -> tuple[jax.Array, jax.Array, jax.Array]:
    """ids, mask and token types, [4, 11] each; the rows have 11, 7, 4 and 1 real tokens."""
    return tuple(jnp.asarray(golden()[name]) for name in ("ids", "mask", "types"))


def real() -> np.ndarray:
    return golden()["mask"].astype(bool)


def encoder(**changes) -> BertModel:
    return BertModel(dataclasses.replace(folder().config, **changes))


def classifier(**changes) -> BertForSequenceClassification:
    return BertForSequenceClassification(dataclasses.replace(folder().config, **changes), LABELS)


def masked_lm(**changes) -> BertForMaskedLM:
    return BertForMaskedLM(dataclasses.replace(folder("bert_odd_mlm").config, **changes))


def masked_lm_params() -> dict:
    """The folder's, and a pooler, which transformers' BertForMaskedLM has not; its logits do not read it."""
    pooler = {"dense": {"kernel": jnp.zeros((12, 12)), "bias": jnp.zeros(12)}}
    params = folder("bert_odd_mlm").params
    return {**params, "bert": {**params["bert"], "pooler": pooler}}


def run(model, params, *args, key=None, **kwargs):
    """The model's answer; `key` is for dropout."""
    return model.apply({"params": params}, *args, rngs=None if key is None else {"dropout": key}, **kwargs)


def encode(*args, params=None, model=None, **kwargs):
    return run(model or encoder(), params or folder().params["bert"], *args, **kwargs)


def classify(*args, **kwargs):
    return run(classifier(), folder().params, *args, **kwargs)


def assert_close(got, expected, tolerance: float = TOLERANCE) -> None:
    assert np.shape(got) == np.shape(expected), f"{np.shape(got)}, expected {np.shape(expected)}"
    assert moved(got, expected) <= tolerance, f"off by {moved(got, expected):.1e}, tolerance {tolerance:.0e}"


def assert_same(got, expected) -> None:
    """Equal trees, leaf by leaf, bit by bit."""
    got, expected = flat(got), flat(expected)
    assert got.keys() == expected.keys()
    for path, leaf in expected.items():
        np.testing.assert_array_equal(got[path], leaf, err_msg=path)


def contents(path: pathlib.Path) -> dict[str, bytes]:
    """The files of a folder."""
    return {entry.name: entry.read_bytes() for entry in path.iterdir()}


def moved(got, expected) -> float:
    """The largest difference."""
    return float(np.abs(np.asarray(got) - np.asarray(expected)).max())


def layer_norm(x, leaves):
    """LayerNorm in float64 numpy, with the golden epsilon."""
    x = np.asarray(x, np.float64)
    centred = x - x.mean(-1, keepdims=True)
    normal = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + folder().config.layer_norm_eps)
    return normal * np.asarray(leaves["scale"]) + np.asarray(leaves["bias"])
