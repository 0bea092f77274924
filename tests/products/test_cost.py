"""Does following leaves cost nothing that rules per layer do not: the same products, laid out the same, in the compiled training step?"""

import collections
import re

import jax
import jax.numpy as jnp
import pytest

import lora_jax
from lora_jax import LoRA, LoRAConfig
from lora_jax.models import bert
from lora_jax.models.causal_lm import CausalLM, CausalLMConfig
from lora_jax.products.find import find
from lora_jax.products.function import lora
from tests.products.functions import CASES
from tests.products.rules import by_rules

IDS = jnp.arange(24, dtype=jnp.int32).reshape(2, 12) % 11
MODELS = {
    "BERT": (
        bert.BertForSequenceClassification(
            bert.BertConfig(
                vocab_size=11, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
                hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
            )
        ),
        ("query", "value"),
    ),
    "causal LM": (CausalLM(CausalLMConfig(11, 8, 24, 3, 2, 1, 16)), "*_proj"),
}  # fmt: skip


@pytest.fixture(params=MODELS)
def model(request):
    base, targets = MODELS[request.param]
    return LoRA(base, LoRAConfig(rank=3, targets=targets))


@pytest.fixture
def params(model):
    base = jax.jit(model.base_module.init)(jax.random.key(0), IDS)["params"]
    return lora_jax.adapt(jax.random.key(1), base, model, IDS)


def step(way, params):
    """The compiled gradient of the adapters."""
    frozen, trainable = lora_jax.partition(params, lora_jax.trainable_mask(params))

    def loss(trainable, frozen, ids):
        return jnp.sum(jnp.sin(way(lora_jax.combine(frozen, trainable), ids)))

    return jax.jit(jax.grad(loss)).lower(trainable, frozen, IDS).compile()


def products(compiled) -> collections.Counter:
    """Every product with its shapes, layouts and contracted axes."""
    found = re.findall(r"= (\S+) dot\((.*?)\), (lhs_.*?)(?:, metadata|, sharding|, backend|\n)", compiled.as_text())
    shapes = lambda operands: re.findall(r"\w+\[[\d,]*\]\{[\d,]*\}", operands)  # noqa: E731
    return collections.Counter((result, *shapes(operands), axes) for result, operands, axes in found)


def test_the_compiled_step_has_the_same_products(model, params):
    of_rules = step(by_rules(model), params)
    by_leaves = step(lora(lambda params, ids: model.base_module.apply({"params": params}, ids)), params)
    assert sum(products(of_rules).values()) > 10
    assert products(by_leaves) == products(of_rules)


def test_every_matrix_is_found_by_one_trace(model, params):
    traces = []

    def fn(params, ids):
        traces.append(1)
        return model.base_module.apply({"params": params}, ids)

    sites = find(fn, lora_jax.strip(params), IDS)
    assert len(traces) == 1
    assert all(site.is_adaptable for path, site in sites.items() if path.endswith(("kernel", "embed_tokens/embedding")))
    assert {path.rpartition("/")[0] for path, site in sites.items() if "query" in path or "_proj" in path}


def test_kernels_side_by_side_take_one_thin_pair():
    """An LSTM's four gates: the base's product and two more, whose rank is the sum of the four."""
    case = CASES["lstm"]
    params = lora_jax.products.adapt(
        jax.random.key(0), case.params(), case.fn, LoRAConfig(rank=2, targets="*"), case.input()
    )
    program = jax.make_jaxpr(lora(case.fn))(params, case.input())
    shapes = re.findall(r"\w+:f32\[([\d,]+)\] = dot_general", str(program))
    assert sorted(shapes) == ["14,12", "14,8", "2,7,12"]
