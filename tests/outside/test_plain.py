"""No package at all: a function of a dict and of a list, as in a blog post."""

import jax
import jax.numpy as jnp
import pytest

from tests.outside import bars
from tests.outside.bars import LENGTH, Bars, Model

pytestmark = pytest.mark.usefixtures("quick_compile")


def gpt(params, ids):
    """One table for ids and for logits, a position table that is sliced, fused query, key and value."""
    x = params["table"][ids] + params["positions"][: ids.shape[1]]
    for layer in params["layers"]:
        q, k, v = jnp.moveaxis((x @ layer["qkv"]).reshape(*x.shape[:2], 3, 4, -1), 2, 0)
        scores = jnp.einsum("btnh,bsnh->bnts", q, k) / q.shape[-1] ** 0.5
        causal = jnp.tril(jnp.ones((ids.shape[1],) * 2, bool))
        mixed = jnp.einsum("bnts,bsnh->btnh", jax.nn.softmax(jnp.where(causal, scores, -1e9)), v)
        x = x + mixed.reshape(x.shape) @ layer["out"]
        x = x + jax.nn.gelu(x @ layer["up"]) @ layer["down"]
    return x @ params["table"].T


def parameters(keys):
    shapes = {"qkv": (16, 48), "out": (16, 16), "up": (16, 24), "down": (24, 16)}
    layers = [{name: jax.random.normal(next(keys), shape) / 4 for name, shape in shapes.items()} for _ in range(2)]
    tables = {"table": jax.random.normal(next(keys), (19, 16)), "positions": jax.random.normal(next(keys), (11, 16))}
    return {**tables, "layers": layers}


def plain() -> Model:
    params = parameters(iter(jax.random.split(jax.random.key(0), 20)))
    uncovered = {"positions": "a position table, sliced and added"}
    return Model(gpt, params, (bars.ids(19, length=LENGTH),), uncovered=uncovered, like=params)


class TestPlain(Bars):
    MODELS = {"GPT in forty lines": plain}
