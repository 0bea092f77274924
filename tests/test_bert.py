"""Is it BERT, number by number?

The independent route is `transformers`: golden/make_bert.py ran it in float64 on a BERT of odd sizes whose every weight
is random, LayerNorms and biases included. Measured here against it, largest error: hidden states 8e-7, pooled 4e-7,
logits 4e-7, masked-LM logits 2e-6 (of values up to 4.7).
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import unflatten_dict

from lora_jax.errors import ModelError
from lora_jax.models.bert import ACTIVATIONS, BertConfig
from tests.bert_golden import (
    assert_close,
    classifier,
    classify,
    encode,
    encoder,
    folder,
    golden,
    inputs,
    layer_norm,
    masked_lm,
    masked_lm_params,
    moved,
    real,
    run,
)
from tests.cases import assert_trees_close, flat

pytestmark = pytest.mark.usefixtures("quick_compile")


# Against transformers


def test_every_hidden_state_is_that_of_transformers():
    states, _ = encode(*inputs())
    assert len(states) == 3
    for state, expected in zip(states, golden()["states"], strict=True):
        assert_close(state[real()], expected[real()])


def test_the_pooled_vector_and_the_logits_are_those_of_transformers():
    assert_close(encode(*inputs())[1], golden()["pooled"])
    assert_close(classify(*inputs()), golden()["logits"])


def test_masked_lm_logits_are_those_of_transformers():
    got = run(masked_lm(), masked_lm_params(), *inputs())
    assert_close(got[real()], golden()["mlm_logits"][real()])


def test_masked_lm_logits_at_positions_are_those_of_all_tokens():
    positions = jnp.asarray([[10, 0, 3], [6, 6, 1], [3, 0, 2], [0, 0, 0]])  # unsorted, repeated, other ones in each row
    got = run(masked_lm(), masked_lm_params(), *inputs(), positions=positions)
    assert_close(got, golden()["mlm_logits"][np.arange(4)[:, None], positions])


# What is computed for the first token alone


def test_first_only_is_the_full_computation():
    (states, pooled), (expected, expected_pooled) = encode(*inputs(), first_only=True), encode(*inputs())
    assert states[-1].shape == (4, 1, 12)
    assert_close(states[-1], expected[-1][:, :1], 2e-6)
    assert_close(pooled, expected_pooled, 2e-6)
    for state, full in zip(states[:-1], expected[:-1], strict=True):
        assert_close(state, full, 2e-6)


def test_gradients_through_first_only_are_those_of_the_full_computation():
    """Of one layer: compiling two takes seconds more."""
    one = {path: leaf for path, leaf in flat(folder().params).items() if "/layer/1/" not in path}

    def loss(logits):
        return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray([0, 2, 4, 1])).mean()

    def through_call(params):
        return loss(classifier(num_hidden_layers=1).apply({"params": params}, *inputs()))

    def through_all_tokens(params):
        _, pooled = encoder(num_hidden_layers=1).apply({"params": params["bert"]}, *inputs(), first_only=False)
        return loss(pooled @ params["classifier"]["kernel"] + params["classifier"]["bias"][None])

    params = unflatten_dict(one, sep="/")
    got, expected = jax.jit(jax.grad(through_call))(params), jax.jit(jax.grad(through_all_tokens))(params)
    assert all(np.abs(leaf).max() > 1e-4 for path, leaf in flat(expected).items() if not path.endswith("key/bias"))
    assert_trees_close(got, expected)


def test_features_and_from_features_make_the_call():
    features = classify(*inputs(), method="features")
    assert_close(features, golden()["states"][-1][:, 0])
    assert_close(classify(features, method="from_features"), golden()["logits"])


# Padding, masks and token types


def test_a_row_alone_and_unpadded_gives_what_it_gives_in_the_batch():
    ids, _, types = inputs()
    states, pooled = jax.jit(encode)(ids[1:2, :7], None, types[1:2, :7])
    assert_close(states[-1][0], golden()["states"][-1][1, :7])
    assert_close(pooled[0], golden()["pooled"][1])


def test_more_padding_changes_nothing():
    ids, mask, types = inputs()
    wider = [jnp.asarray(np.pad(x, ((0, 0), (0, 6)), constant_values=c)) for x, c in ((ids, 9), (mask, 0), (types, 1))]
    states, pooled = jax.jit(encode)(*wider)
    assert_close(states[-1][:, :11][real()], golden()["states"][-1][real()])
    assert_close(pooled, golden()["pooled"])


def test_what_is_written_where_a_token_is_masked_changes_nothing():
    ids, mask, types = inputs()
    mask = mask.at[0, 4].set(0)  # a hole, too
    other_ids = jnp.where(mask == 1, ids, (ids + 5) % 37)
    other_types = jnp.where(mask == 1, types, (types + 1) % 3)
    before, after = encode(ids, mask, types)[0][-1], encode(other_ids, mask, other_types)[0][-1]
    assert_close(after[mask == 1], before[mask == 1], 1e-6)
    assert moved(after[0, 4], before[0, 4]) > 0.1  # the masked token itself is encoded as it is written


def test_a_mask_is_what_is_nonzero_and_defaults_are_all_tokens_of_type_0():
    ids, mask, types = inputs()
    for kind in (bool, jnp.float32):
        np.testing.assert_array_equal(classify(ids, mask.astype(kind), types), classify(ids, mask, types))
    np.testing.assert_array_equal(classify(ids), classify(ids, jnp.ones_like(mask), jnp.zeros_like(types)))
    assert moved(classify(ids), classify(ids, mask)) > 1e-2
    assert moved(classify(ids), classify(ids, None, types)) > 1e-2


def test_types_and_order_of_tokens_matter():
    ids, mask, types = inputs()
    assert moved(classify(ids, mask, types.at[0, 5].add(1) % 3)[0], golden()["logits"][0]) > 1e-3
    swapped = ids.at[0, 2].set(ids[0, 3]).at[0, 3].set(ids[0, 2])
    assert moved(classify(swapped, mask, types)[0], golden()["logits"][0]) > 1e-3


def test_as_many_tokens_as_there_are_positions_and_no_more():
    assert jax.eval_shape(encode, jnp.ones((1, 17), jnp.int32))[0][-1].shape == (1, 17, 12)
    with pytest.raises(ModelError, match="given 18 tokens, and has 17 position embeddings"):
        encode(jnp.ones((1, 18), jnp.int32))


# Activations


def erf_gelu(x):
    return 0.5 * x * (1 + math.erf(x / math.sqrt(2)))


def tanh_gelu(x):
    return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


FORMULAS = {"gelu": erf_gelu, "gelu_new": tanh_gelu, "gelu_pytorch_tanh": tanh_gelu, "relu": lambda x: max(x, 0.0)}


def by_formula(name, x):
    return np.vectorize(FORMULAS[name], otypes=[np.float64])(np.asarray(x, np.float64))


@pytest.mark.parametrize("name", FORMULAS)
def test_activations_are_their_formulas(name):
    x = np.linspace(-4, 4, 41, dtype=np.float32)
    assert_close(ACTIVATIONS[name](x), by_formula(name, x), 1e-6)  # the two gelus differ by 5e-4
    assert ACTIVATIONS.keys() == FORMULAS.keys()


@pytest.mark.parametrize("name", ["gelu_new", "relu"])
def test_the_layers_use_the_activation_of_the_config(name):
    def of_intermediate(module, method):
        return "intermediate" in module.path

    model, params = encoder(hidden_act=name), folder().params["bert"]
    _, kept = model.apply({"params": params}, *inputs(), capture_intermediates=of_intermediate)
    for layer in kept["intermediates"]["encoder"]["layer"].values():
        (before,), (after,) = layer["intermediate"]["dense"]["__call__"], layer["intermediate"]["__call__"]
        assert_close(after, by_formula(name, before), 1e-6)


def test_the_masked_lm_head_uses_the_activation_of_the_config():
    hidden = golden()["states"][-1]
    head = jax.tree.map(np.asarray, folder("bert_odd_mlm").params["cls"]["predictions"])
    dense = hidden @ head["transform"]["dense"]["kernel"] + head["transform"]["dense"]["bias"]
    transformed = layer_norm(by_formula("relu", dense), head["transform"]["LayerNorm"])
    words = folder("bert_odd_mlm").params["bert"]["embeddings"]["word_embeddings"]["embedding"]
    got = run(masked_lm(hidden_act="relu"), masked_lm_params(), jnp.asarray(hidden), method="score")
    assert_close(got, transformed @ np.asarray(words).T + head["bias"])


# Configs


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden_size": 130, "num_attention_heads": 4}, "hidden_size 130 is no multiple of num_attention_heads 4"),
        ({"vocab_size": 0}, "vocab_size is 0; it must be an integer of 1 or more"),
        ({"num_hidden_layers": 2.0}, "num_hidden_layers is 2.0; it must be an integer"),
        ({"intermediate_size": None}, "intermediate_size is None"),
        ({"type_vocab_size": True}, "type_vocab_size is True"),
        ({"hidden_act": "silu"}, "hidden_act is 'silu'; there is code for gelu, gelu_new, gelu_pytorch_tanh, relu"),
        ({"hidden_dropout_prob": 1.0}, r"hidden_dropout_prob is 1.0; it must be a number in \[0, 1\)"),
        ({"attention_probs_dropout_prob": "0.1"}, "attention_probs_dropout_prob is '0.1'"),
        ({"layer_norm_eps": 0}, "layer_norm_eps is 0; it must be a positive number"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps is nan"),
    ],
    ids=str,
)
def test_a_config_that_cannot_be_is_refused_by_the_name_of_its_field(change, words):
    with pytest.raises(ModelError, match=f"^BertConfig: {words}"):
        BertConfig(**change)
