"""A table of whole models x configs; every question is asked of every row, in linen and in NNX.

The rows are small and whole: what users adapt. tests/cases.py and tests/nnx_cases.py have the single layers.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.traverse_util import unflatten_dict

from lora_jax import (
    LoRA,
    LoRAConfig,
    LoRAError,
    adapt,
    adapter_of,
    checkpoint,
    combine,
    layout,
    lora_optimizer,
    merge,
    partition,
    report,
    strip,
    trainable_mask,
    training,
)
from lora_jax import nnx as lora_nnx
from lora_jax.leaves import TRAINABLE
from lora_jax.lowrank import pad_rank
from lora_jax.models.bert import BertConfig, BertForSequenceClassification
from lora_jax.models.causal_lm import CausalLM, CausalLMConfig
from lora_jax.models.mlp import MLP
from tests.cases import TiedNet, assert_trees_close, equations, flat, randomised
from tests.nnx_cases import Stack
from tests.nnx_cases import Tied as TiedNNX

pytestmark = pytest.mark.usefixtures("quick_compile")


class AttentionBlock(nn.Module):
    dtype: Any = None

    @nn.compact
    def __call__(self, x):
        y = nn.MultiHeadDotProductAttention(num_heads=3, dtype=self.dtype, name="attention")(
            nn.LayerNorm(name="norm")(x)
        )
        return nn.Dense(3, dtype=self.dtype, name="head")(x + y)


class ConvNet(nn.Module):
    dtype: Any = None

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(5, (3, 3), dtype=self.dtype, name="first")(x))
        x = nn.relu(nn.Conv(7, (2, 2), strides=2, dtype=self.dtype, name="second")(x))
        return nn.Dense(3, dtype=self.dtype, name="head")(x.mean(axis=(1, 2)))


class NNXAttentionBlock(nnx.Module):
    def __init__(self, dtype, rngs):
        self.norm = nnx.LayerNorm(6, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(3, 6, dtype=dtype, decode=False, rngs=rngs)
        self.head = nnx.Linear(6, 3, dtype=dtype, rngs=rngs)

    def __call__(self, x):
        return self.head(x + self.attention(self.norm(x)))


class NNXMLP(nnx.Module):
    def __init__(self, dtype, rngs):
        self.hidden_0 = nnx.Linear(5, 9, dtype=dtype, rngs=rngs)
        self.classifier = nnx.Linear(9, 3, dtype=dtype, rngs=rngs)

    def __call__(self, x):
        return self.classifier(nnx.relu(self.hidden_0(x)))


BERT = BertConfig(
    vocab_size=13,
    hidden_size=6,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=10,
    max_position_embeddings=17,
    type_vocab_size=4,
)
LLAMA = CausalLMConfig(13, 12, 10, 2, 3, 1, 16)
RANDOM = np.random.default_rng(0)
IDS = jnp.asarray(RANDOM.integers(13, size=(1, 11)), jnp.int32)  # 11 rows of a product: no kernel has such a side


def floats(*shape: int) -> jax.Array:
    return jnp.asarray(RANDOM.normal(size=shape), jnp.float32)


# name -> (module of a dtype, or NNX model of a dtype and streams; input; head)
MODELS = {
    "mlp": (lambda dtype: MLP(hidden=(9,), classes=3), floats(4, 5), "classifier"),
    "attention": (AttentionBlock, floats(2, 4, 6), "head"),
    "scan, remat, tied": (TiedNet, IDS % 7, None),
    "convolutions": (ConvNet, floats(2, 6, 6, 3), "head"),
    "BERT": (lambda dtype: BertForSequenceClassification(BERT, 3), IDS, "classifier"),
    "causal LM": (lambda dtype: CausalLM(LLAMA, dtype=dtype or jnp.float32), IDS, None),
    "NNX mlp": (NNXMLP, floats(4, 5), "classifier"),
    "NNX attention": (NNXAttentionBlock, floats(2, 4, 6), "head"),
    "NNX scan, remat": (Stack, floats(5, 4), None),
    "NNX tied": (TiedNNX, IDS % 7, None),
}
CONFIGS = {
    "LoRA": LoRAConfig(rank=2, alpha=3),
    "rsLoRA, dropout, DoRA": LoRAConfig(rank=2, alpha=3, scaling="alpha/sqrt(r)", dropout=0.3, dora=True),
    "PiSSA, embeddings and convolutions too": LoRAConfig(rank=2, alpha=3, init="pissa", targets="*"),
}


class Row(NamedTuple):
    model: str
    config: str

    @functools.cache  # noqa: B019
    def wrapper(self, dtype=None):
        build, config = MODELS[self.model][0], CONFIGS[self.config]
        if "scan" in self.model:  # a stack that does not split the stream of dropout
            config = dataclasses.replace(config, dropout=0.0)
        return lora_nnx.LoRA(build(dtype, nnx.Rngs(0)), config) if self.is_nnx else LoRA(build(dtype), config)

    @property
    def is_nnx(self) -> bool:
        return self.model.startswith("NNX")

    @property
    def x(self):
        return MODELS[self.model][1]

    def base(self) -> dict:
        return base_of(self.model)

    @functools.cache  # noqa: B019
    def fresh(self) -> dict:
        return adapt(jax.random.key(1), self.base(), self.wrapper(), self.x)

    @functools.cache  # noqa: B019
    def apply(self):
        """(params, x) -> y, jitted; the list of its traces."""
        traces = []

        def run(params, x):
            traces.append(1)
            return self.wrapper().apply({"params": params}, x)

        return jax.jit(run), traces

    def y(self, params):
        return self.apply()[0](params, self.x)


@functools.cache
def base_of(model: str) -> dict:
    """The parameters of a model that has never heard of LoRA."""
    row = Row(model, "LoRA")
    if row.is_nnx:
        return row.wrapper().base_params
    params = jax.jit(row.wrapper().base_module.init)(jax.random.key(0), row.x)["params"]
    if model == "causal LM":  # of a trained size: where keys are alike, their gradients cancel to noise
        params["model"]["embed_tokens"]["embedding"] *= 20
    return params


@functools.cache
def plain(model: str):
    """params -> what such a model answers, jitted."""
    row = Row(model, "LoRA")
    module = row.wrapper() if row.is_nnx else row.wrapper().base_module
    return jax.jit(lambda params: module.apply({"params": params}, row.x))


ROWS = [Row(model, config) for model in MODELS for config in CONFIGS]
every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.model}: {row.config}")


@every_row
def test_it_begins_as_its_base_and_strips_to_it_bit_for_bit(row):
    fresh, base = row.fresh(), row.base()
    assert_trees_close(row.y(fresh), plain(row.model)(base), 1e-6)
    assert all(flat(strip(fresh))[path] is leaf for path, leaf in flat(base).items())


@pytest.mark.parametrize("config", ["LoRA", "rsLoRA, dropout, DoRA"])
@pytest.mark.parametrize("model", ["mlp", "attention", "NNX mlp", "NNX attention"])
def test_run_operation_by_operation_it_begins_as_its_base_bit_for_bit(model, config):
    row = Row(model, config)
    got, expected = (row.wrapper().apply({"params": params}, row.x) for params in (row.fresh(), row.base()))
    np.testing.assert_array_equal(got, expected)
    assert not np.array_equal(row.wrapper().apply({"params": randomised(row.fresh(), seed=3)}, row.x), expected)


@every_row
def test_merged_it_answers_alike_and_one_trace_serves_every_adapter(row):
    params = randomised(row.fresh(), seed=3)
    run, traces = row.apply()
    run(row.fresh(), row.x)
    count = len(traces)
    got = run(params, row.x)
    assert len(traces) == count
    assert_trees_close(plain(row.model)(merge(params)), got, 1e-5)
    assert np.abs(got - plain(row.model)(row.base())).max() > 1e-3


@every_row
def test_gradients_are_those_of_the_merged_model(row):
    params = randomised(row.fresh(), seed=3)
    _, trainable = partition(params, trainable_mask(params))
    rest = strip_trainable(params)

    def gradients(trainable, change):
        def loss(trainable):
            return jnp.mean(row.wrapper().apply({"params": change(combine(rest, trainable))}, row.x) ** 2)

        return jax.grad(loss)(trainable)

    got, expected = jax.jit(lambda t: (gradients(t, lambda tree: tree), gradients(t, merge)))(trainable)
    if "DoRA" in row.config:  # merge differentiates the norm, DoRA does not: tests/test_variants.py has its own route
        got, expected = magnitudes(got), magnitudes(expected)
    assert_trees_close(got, expected, 5e-5)


def strip_trainable(params):
    return partition(params, trainable_mask(params))[0]


def magnitudes(tree):
    return {path: leaf for path, leaf in flat(tree).items() if path.endswith("lora_magnitude")}


@every_row
def test_what_should_train_does_and_nothing_else(row, tmp_path):
    fresh, head = row.fresh(), MODELS[row.model][2]
    is_adapted_too = CONFIGS[row.config].dora or CONFIGS[row.config].targets == ("*",)
    head = () if head is None or is_adapted_too else (head,)
    mask = trainable_mask(fresh, train=head)
    frozen, trainable = partition(fresh, mask)
    tx = lora_optimizer(optax.adam(1e-2), mask)

    def loss_fn(params, batch, key):
        return jnp.mean((row.wrapper().apply({"params": params}, batch, rngs={"dropout": key}) - 1) ** 2), None

    state = training.init_state(trainable, tx, jax.random.key(2))
    size = sum(leaf.size for leaf in jax.tree.leaves(trainable))
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(state.opt_state)) == 8 * size + 4  # two moments and a counter
    step, before = training.make_train_step(loss_fn, tx), jax.tree.map(np.array, frozen)
    for _ in range(3):
        state, (loss, _) = step(state, frozen, row.x)
    assert np.isfinite(loss)
    jax.tree.map(np.testing.assert_array_equal, frozen, before)
    still = [path for path, leaf in flat(state.trainable).items() if np.array_equal(leaf, flat(trainable)[path])]
    assert still == []
    trained = combine(frozen, state.trainable)
    checkpoint.save_adapter(tmp_path, trained, CONFIGS[row.config], mask=mask, collections={})
    again = checkpoint.restore_adapter(tmp_path, fresh, CONFIGS[row.config], mask=mask)
    jax.tree.map(np.testing.assert_array_equal, again, trained)


@every_row
def test_padded_ranks_are_the_same_adapter(row):
    params = randomised(row.fresh(), seed=3)
    leaves = dict(flat(params))
    for path in [path for path in leaves if path.endswith(("lora_a", "lora_start_a"))]:
        other = path[:-1] + "b"
        leaves[path], leaves[other] = pad_rank(leaves[path], leaves[other], 5)
    padded = unflatten_dict(leaves, sep="/")
    assert_trees_close(row.y(padded), row.y(params), 1e-5)


@every_row
def test_no_gradient_has_the_shape_of_a_kernel(row):
    """At rank 1, where no factor, and no activation, has such a shape: every kernel's is found when the base is differentiated."""
    model = row.wrapper().with_config(dataclasses.replace(row.wrapper().config, rank=1))
    params = jax.eval_shape(lambda key: model.init(key, row.x)["params"], jax.random.key(0))
    kernels = shapes_of_kernels(row, params)
    made = [
        products(model, row.x, *partition(params, mask)) for mask in (trainable_mask(params), kernels_alone(params))
    ]
    assert not kernels & made[0]
    assert kernels <= made[1]


def shapes_of_kernels(row, params) -> set[tuple[int, ...]]:
    """Sorted, of single layers."""
    stacked = "scan" in row.model or row.model == "causal LM"
    shapes = [leaf.shape for path, leaf in flat(params).items() if path.endswith(("kernel", "embedding"))]
    return {tuple(sorted(shape[1:] if stacked and len(shape) > 2 else shape)) for shape in shapes}


def kernels_alone(params) -> dict:
    return unflatten_dict({p: p.endswith(("kernel", "embedding")) for p in flat(params)}, sep="/")


def products(model, x, frozen, trainable) -> set[tuple[int, ...]]:
    """Sorted shapes of what a step that differentiates `trainable` multiplies out, or adds into the rows of an embedding."""

    def loss(trainable, frozen):
        return jnp.sum(model.apply({"params": combine(frozen, trainable)}, x) ** 2)

    every = equations(jax.make_jaxpr(jax.grad(loss))(trainable, frozen).jaxpr)
    names = ("dot_general", "conv_general_dilated", "scatter-add")
    return {tuple(sorted(e.outvars[0].aval.shape)) for e in every if e.primitive.name in names}


@pytest.mark.parametrize("name", ["attention", "convolutions", "causal LM", "NNX attention", "NNX scan, remat"])
def test_bfloat16_stays_close(name):
    row = Row(name, "LoRA")
    params = randomised(row.fresh(), seed=3)
    got = jax.jit(lambda params: row.wrapper(jnp.bfloat16).apply({"params": params}, row.x))(params)
    assert_trees_close(got, row.y(params), 0.1)


class Odd(nn.Module):
    """A head, and a layer that LoRA cannot adapt: the mask lies between its kernel and the product."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, name="head")(nn.Conv(4, (3,), mask=jnp.ones((3, 3, 4)), name="masked")(x))


@pytest.mark.parametrize("fields", [{"targets": "head"}, {"targets": "*"}, {"excludes": "masked"}], ids=str)
def test_layers_that_cannot_be_adapted_may_stay_as_they_are(fields):
    model, x = LoRA(Odd(), LoRAConfig(rank=2, **fields)), jnp.ones((1, 5, 3))
    params = jax.eval_shape(model.init, jax.random.key(0), x)["params"]
    assert [*layout(Odd(), x), *adapter_of(params)] == ["head", "head"]
    found = report(params, config=model.config, layout=layout(Odd(), x))
    (missed,) = found.missed
    assert (missed.path, missed.kind, missed.shape, missed.share) == ("masked/kernel", "Conv", (3, 3, 4), 0.75)
    assert missed.reason.startswith("it reaches mul in Odd/masked") and found.missed_share == 0.75
    assert "adapters reach 25% of the matrices' parameters; these have none:" in str(found)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (
            lambda: layout(NNXMLP(None, nnx.Rngs(0)), jnp.ones((1, 5))),
            "this is a NNXMLP of flax.nnx; an NNX model's layout",
        ),
        (lambda: layout(nn.Embed(7, 4), IDS, method="atend"), "Embed has no such method; closest: attend"),
    ],
)
def test_what_has_no_layout_says_so(act, message):
    with pytest.raises(LoRAError, match=message):
        act()


def test_a_layout_of_another_method_is_that_of_the_base():
    wrapped = LoRA(nn.Embed(7, 4), LoRAConfig(rank=2, targets="*"))
    for model in (wrapped, wrapped.base_module):
        assert layout(model, jnp.ones((1, 4)), method="attend")[""].uses[0].operation == "dot_general"


class AppliesAnother(nn.Module):
    """As Hugging Face ties an output layer: a Dense outside of the tree, with the table as its kernel."""

    @nn.compact
    def __call__(self, ids):
        table = self.param("table", nn.initializers.normal(1.0), (7, 4))
        return nn.Dense(7, use_bias=False).apply({"params": {"kernel": table.T}}, nn.Dense(4, name="body")(table[ids]))


def test_a_module_that_is_applied_inside_is_no_layer():
    """Its kernel is the table, whose adapter serves both uses."""
    model, ids = LoRA(AppliesAnother(), LoRAConfig(rank=2, targets="*")), jnp.zeros((1, 3), int)
    found = layout(model, ids)
    assert sorted(found) == ["body", "table:io"] and found["table:io"].is_tied
    params = randomised(model.init(jax.random.key(0), ids)["params"], seed=3)
    expected = AppliesAnother().apply({"params": merge(params)}, ids)
    assert_trees_close(model.apply({"params": params}, ids), expected)


def test_every_row_trains_something():
    for row in ROWS:
        names = {path.rpartition("/")[2] for path in flat(adapter_of(row.fresh()))}
        assert names & set(TRAINABLE)


class Positions(nn.Module):
    """Attention, whose biases have an axis of heads, and a table that is only added."""

    @nn.compact
    def __call__(self, x):
        x = x + self.param("table", nn.initializers.normal(), (1, 5, 4))
        return nn.MultiHeadDotProductAttention(2, name="attention")(x)


def test_biases_of_heads_are_no_matrices_without_an_adapter_and_an_added_table_is_one():
    base, x = Positions(), jnp.ones((1, 5, 4))
    params = base.init(jax.random.key(0), x)["params"]
    assert params["attention"]["query"]["bias"].shape == (2, 2)
    assert list(layout(base, x).missed) == ["table"]
