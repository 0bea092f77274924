"""A Haiku model: parameters in two levels of names, of which the first has slashes."""

import jax
import pytest

from tests.outside import bars
from tests.outside.bars import Bars, Model

with bars.imports():
    import haiku as hk

pytestmark = pytest.mark.usefixtures("quick_compile")


def forward(ids):
    table = hk.Embed(19, 16, name="embed")
    x = table(ids)
    x = x + hk.MultiHeadAttention(4, 4, w_init=hk.initializers.VarianceScaling(), name="attention")(x, x, x)
    x = hk.LayerNorm(-1, True, True)(x)
    with hk.experimental.name_scope("mlp"):
        x = x + hk.Linear(16, name="down")(jax.nn.gelu(hk.Linear(24, name="up")(x)))
    return x @ table.embeddings.T


def transformer() -> Model:
    pure = hk.without_apply_rng(hk.transform(forward))
    params = pure.init(jax.random.key(0), bars.ids(19))
    return Model(pure.apply, params, (bars.ids(19),), like=params)


class TestHaiku(Bars):
    MODELS = {"tied transformer": transformer}
