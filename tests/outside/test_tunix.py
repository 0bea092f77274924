"""Tunix' NNX models as functions of their parameters: einsum layers, experts that are indexed out of a stack."""

import jax.numpy as jnp
import pytest
from flax import nnx

from tests.outside import bars
from tests.outside.bars import LENGTH, Bars, Model

with bars.imports():
    from tunix.models.llama3 import model as llama3
    from tunix.models.qwen3 import model as qwen3

pytestmark = [
    pytest.mark.usefixtures("quick_compile"),
    pytest.mark.filterwarnings("ignore:'sharding' is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:'.value' access is now deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:jax.interpreters.pxla.thread_resources:DeprecationWarning"),
]
SIZES = {
    "num_layers": 2,
    "vocab_size": 19,
    "embed_dim": 16,
    "hidden_dim": 24,
    "num_heads": 4,
    "head_dim": 8,
    "num_kv_heads": 4,
    "rope_theta": 10_000,
    "norm_eps": 1e-5,
}


def made(model: nnx.Module) -> Model:
    fn, params = bars.nnx_function(model, lambda model, *args: model(args[0], args[1], None, args[2])[0])
    causal = jnp.tril(jnp.ones((1, LENGTH, LENGTH), bool))
    return Model(fn, bars.randomised(params), (bars.ids(19), bars.positions(), causal))


def llama(**fields) -> Model:
    return made(llama3.Llama3(llama3.ModelConfig(**SIZES, **fields), rngs=nnx.Rngs(0)))


def qwen(**fields) -> Model:
    return made(qwen3.Qwen3(qwen3.ModelConfig(**SIZES, **fields), rngs=nnx.Rngs(0)))


class TestTunix(Bars):
    MODELS = {
        "Llama 3": llama,
        "Llama 3, tied, remat": lambda: llama(weight_tying=True, remat_config=llama3.RematConfig.BLOCK),
        "Qwen 3": qwen,
        "Qwen 3, experts": lambda: qwen(num_experts=4, num_experts_per_tok=3),
    }
