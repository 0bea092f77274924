"""Are RoBERTa and DistilBERT, number by number, what `transformers` has under these names?

The independent route is golden/make_encoders.py, which ran `transformers` in float64 on models of odd sizes whose every weight is random.
Largest error measured: 1e-6 (of values up to 6).
"""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lora_jax.errors import ModelError
from lora_jax.models import bert_folder, padded_attention
from lora_jax.models.bert import BertConfig, BertForSequenceClassification, BertModel
from tests.bert_golden import NEARLY_ALL, assert_close, moved
from tests.cases import flat
from tests.encoder_golden import (
    KINDS,
    NAMES,
    classifiers,
    every_folder,
    folder,
    golden,
    inputs,
    loaded,
    logits,
    real,
    states,
    tensors_of,
)

pytestmark = pytest.mark.usefixtures("quick_compile")


# Against transformers


@every_folder
def test_states_and_logits_are_those_of_transformers(name):
    for state, expected in zip(states(name), golden()[f"{name}_states"], strict=True):
        assert_close(
            state[real()] if state.shape[1] > 1 else state, expected[real()] if state.shape[1] > 1 else expected
        )
    got, expected = logits(name), golden()[f"{name}_logits"]
    assert_close(got[real()] if got.ndim == 3 else got, expected[real()] if got.ndim == 3 else expected)


@every_folder
def test_every_parameter_has_the_name_that_torch_gives_it(name):
    model, params = loaded(name)
    words = {"kernel": "weight", "scale": "weight", "embedding": "weight", "bias": "bias"}
    got = {f"{model.torch_module(path.rpartition('/')[0])}.{words[path.rpartition('/')[2]]}" for path in flat(params)}
    assert got == tensors_of(name).keys()
    alone = BertModel(folder(name).config, has_pooler=False)
    for path in flat(params["bert"]):
        module = path.rpartition("/")[0]
        assert f"{name.split('_')[0]}.{alone.torch_module(module)}" == model.torch_module(f"bert/{module}")


def test_one_tree_for_all_families():
    """What differs is what is not there, and the head."""
    one, other = (set(flat(folder(name).params["bert"])) for name in ("roberta_odd", "distilbert_odd"))
    assert one - other == {"embeddings/token_type_embeddings/embedding"} and other < one
    heads = [set(flat(folder(name).params["classifier"])) for name in ("roberta_odd", "distilbert_odd")]
    assert heads[0] == heads[1] == {"dense/kernel", "dense/bias", "out_proj/kernel", "out_proj/bias"}


def test_roberta_counts_positions_from_the_padding_token_on():
    """Left padding changes nothing; a padding token that is attended to has the position of padding, and others are counted without it."""
    ids = jnp.asarray([[5, 6, 7, 8]])
    left = jnp.asarray([[3, 3, 5, 6, 7, 8]])
    model, params = loaded("roberta_odd_mlm")
    got = model.apply({"params": params}, left, left != 3)
    assert_close(got[:, 2:], model.apply({"params": params}, ids), 1e-6)
    distil, its = loaded("distilbert_odd_mlm")
    padded = distil.apply({"params": its}, left, left != 3)[:, 2:]
    assert moved(padded, distil.apply({"params": its}, ids)) > 0.05  # DistilBERT's positions are places


@pytest.mark.parametrize(("name", "most"), [("roberta_odd", 11), ("distilbert_odd", 14)])
def test_as_many_tokens_as_there_are_positions_and_no_more(name, most):
    assert folder(name).config.max_tokens == most
    assert jax.eval_shape(lambda ids: logits(name, ids), jnp.ones((1, most), jnp.int32)).shape == (1, 5)
    with pytest.raises(
        ModelError, match=rf"was given {most + 1} tokens, and has .* position embeddings.*cut the input to {most}\."
    ):
        logits(name, jnp.ones((1, most + 1), jnp.int32))


def test_token_types_are_refused_where_there_are_none():
    ids, mask = inputs()
    with pytest.raises(ModelError, match="a distilbert has no token types; leave token_type_ids out"):
        logits("distilbert_odd", ids, mask, jnp.zeros_like(ids))
    np.testing.assert_array_equal(logits("roberta_odd", ids, mask, jnp.zeros_like(ids)), logits("roberta_odd"))


@classifiers
def test_features_and_from_features_make_the_call(name):
    features = logits(name, method="features")
    assert_close(features, golden()[f"{name}_states"][-1][:, 0])
    assert_close(logits(name, features, method="from_features"), golden()[f"{name}_logits"])


# Dropout of the heads


@pytest.mark.parametrize(
    ("kind", "expected"), [("roberta", lambda x: 2 * np.tanh(2 * x)), ("distilbert", lambda x: 2 * x)]
)
def test_a_head_drops_before_its_last_layer_and_robertas_before_both(kind, expected, key):
    """Identities as kernels: an output is 0, or what two dropouts, or one, leave."""
    config = BertConfig(vocab_size=11, hidden_size=64, intermediate_size=8, classifier_dropout=0.5, **KINDS[kind])
    model, eye = BertForSequenceClassification(config, 64), {"kernel": jnp.eye(64), "bias": jnp.zeros(64)}
    x = jnp.abs(jax.random.normal(key, (20, 64)))
    params = {"classifier": {"dense": eye, "out_proj": eye}}
    got = np.asarray(model.apply({"params": params}, x, train=True, rngs={"dropout": key}, method="from_features"))
    assert_close(got, np.where(got == 0, 0, expected(np.asarray(x))))
    assert abs((got != 0).mean() - (0.25 if kind == "roberta" else 0.5)) < 0.05


@classifiers
def test_a_head_s_rate_is_its_own(name, key):
    model, params = loaded(name)
    assert folder(name).config.classifier_dropout == 0.4
    model = model.clone(config=folder(name).config.with_dropout(NEARLY_ALL))
    features = logits(name, method="features")
    got = model.apply({"params": params}, features, train=True, rngs={"dropout": key}, method="from_features")
    assert_close(got, np.tile(params["classifier"]["out_proj"]["bias"], (4, 1)))


# Attention: two ways to compute it


def test_both_ways_of_attention_agree(monkeypatch):
    """Also where a row has no token at all, which a batch that is filled up has."""
    ids, mask = inputs()
    mask = mask.at[1].set(0)
    before = [logits(name, ids, mask) for name in NAMES]
    calls = []
    fused = jax.nn.dot_product_attention
    monkeypatch.setattr(
        jax.nn, "dot_product_attention", lambda *args, **kwargs: calls.append(1) or fused(*args, **kwargs)
    )
    monkeypatch.setattr(padded_attention, "on_accelerator", lambda: True)
    for name, expected in zip(NAMES, before, strict=True):
        assert_close(logits(name, ids, mask), expected, 1e-5)
    assert len(calls) == 2 * len(NAMES)
    model, params = loaded("roberta_odd")
    model.apply({"params": params}, ids, mask, train=True, rngs={"dropout": jax.random.key(0)})
    assert len(calls) == 2 * len(NAMES)  # weights that are dropped are not fused


@pytest.mark.parametrize("by_jax", [False, True])
def test_gradients_of_attention_are_those_of_the_formula(by_jax):
    random = np.random.default_rng(0)
    q, k, v = (jnp.asarray(random.normal(size=(2, 5, 3, 4)), jnp.float32) for _ in range(3))
    mask = jnp.asarray([[1, 1, 1, 1, 1], [0, 1, 1, 0, 0]], bool)

    def formula(q, k, v):
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / 2
        weights = jnp.where(mask[:, None, None], jnp.exp(scores), 0)
        return jnp.einsum("bhqk,bkhd->bqhd", weights / weights.sum(-1, keepdims=True), v)

    def of(attend):
        return jax.value_and_grad(lambda *args: jnp.sin(attend(*args)).sum(), (0, 1, 2))(q, k, v)

    got = of(lambda q, k, v: padded_attention.attend(q, k, v, mask, by_jax=by_jax))
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(of(formula)), strict=True):
        assert_close(one, other, 1e-5)


@pytest.mark.parametrize(
    ("changes", "way"),
    [
        ({}, "cudnn"),
        ({"dtype": jnp.float32}, "xla"),
        ({"tokens": 5}, "xla"),
        ({"queries": 1}, "xla"),
        ({"width": 12}, "xla"),
        ({"width": 136}, "xla"),
        ({"capability": "7.5"}, "xla"),
        ({"platform": "tpu"}, "xla"),
    ],
    ids=str,
)
def test_cudnn_is_asked_for_what_it_takes(changes, way, monkeypatch):
    """It refuses others in mid-training: its own conditions are those of jax._src.cudnn.fused_attention_stablehlo."""
    of = {
        "dtype": jnp.bfloat16,
        "tokens": 6,
        "queries": 6,
        "width": 8,
        "capability": "8.0",
        "platform": "gpu",
        **changes,
    }
    device = types.SimpleNamespace(platform=of["platform"], compute_capability=of["capability"])
    monkeypatch.setattr(jax, "devices", lambda: [device])
    asked = []
    monkeypatch.setattr(jax.nn, "dot_product_attention", lambda q, *_, **kwargs: asked.append(kwargs) or q)
    q, k = (jnp.ones((2, length, 3, of["width"]), of["dtype"]) for length in (of["queries"], of["tokens"]))
    padded_attention.attend(q, k, k, jnp.ones((2, of["tokens"]), bool), by_jax=True)
    assert asked[0]["implementation"] == way and asked[0]["mask"].shape == (2, 1, of["queries"], of["tokens"])


# Dtypes


@every_folder
def test_in_bfloat16_logits_are_near_and_of_float32(name):
    got, expected = logits(name, dtype=jnp.bfloat16), logits(name)
    assert got.dtype == expected.dtype == jnp.float32
    away = moved(got, expected) / np.abs(expected).max()
    assert 1e-4 < away < 0.05


@every_folder
def test_parameters_are_as_stored_or_as_asked_for(name, tmp_path):
    bert_folder.write(tmp_path, folder(name).config, folder(name).params, dtype=jnp.bfloat16)
    stored, wide = bert_folder.read(tmp_path), bert_folder.read(tmp_path, param_dtype=jnp.float32)
    assert {leaf.dtype.name for leaf in flat(stored.params).values()} == {"bfloat16"}
    assert {leaf.dtype.name for leaf in flat(wide.params).values()} == {"float32"}
    one, other = (bert_folder.model_of(found) for found in (stored, wide))
    np.testing.assert_array_equal(*(model.apply({"params": params}, *inputs()) for model, params in (one, other)))
    assert {leaf.dtype.name for leaf in flat(folder(name).params).values()} == {"float32"}
