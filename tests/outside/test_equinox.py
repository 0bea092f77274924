"""An Equinox model: a pytree that is its own function, mapped over a batch."""

from typing import Any

import jax
import pytest

from tests.outside import bars
from tests.outside.bars import Bars, Model

with bars.imports():
    import equinox as eqx

pytestmark = pytest.mark.usefixtures("quick_compile")


class Reader(eqx.Module):
    embedding: eqx.nn.Embedding
    attention: eqx.nn.MultiheadAttention
    mlp: eqx.nn.MLP
    convolution: eqx.nn.Conv1d
    norm: eqx.nn.LayerNorm
    kind: str = "causal"

    def __init__(self, key: Any):
        keys = jax.random.split(key, 4)
        self.embedding = eqx.nn.Embedding(19, 16, key=keys[0])
        self.attention = eqx.nn.MultiheadAttention(4, 16, key=keys[1])
        self.mlp = eqx.nn.MLP(16, 11, 24, 2, key=keys[2])
        self.convolution = eqx.nn.Conv1d(16, 16, 9, padding=4, key=keys[3])
        self.norm = eqx.nn.LayerNorm(16)

    def __call__(self, ids):
        x = jax.vmap(self.embedding)(ids)
        x = x + self.attention(x, x, x)
        x = x + self.convolution(x.T).T
        return jax.vmap(self.mlp)(jax.vmap(self.norm)(x))


def reader() -> Model:
    model = Reader(jax.random.key(0))
    return Model(lambda model, ids: jax.vmap(model)(ids), model, (bars.ids(19),), like=model)


class TestEquinox(Bars):
    MODELS = {"embedding, attention, convolution, MLP": reader}
