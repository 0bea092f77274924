"""What training adds to BERT: where dropout falls, how fresh weights are drawn, and LoRA on it.

The routes: dropout at rates where the answer is known exactly; kernels `W + scale * a @ b` in the plain model.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from lora_jax import LoRA, LoRAConfig, adapt, checkpoint, merge, report, strip, trainable_mask
from lora_jax.models.bert import BertConfig, BertForMaskedLM, BertForSequenceClassification, BertModel
from tests.bert_golden import (
    NEARLY_ALL,
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
from tests.cases import assert_trees_close, dense_base, flat, randomised

pytestmark = pytest.mark.usefixtures("quick_compile")


# Dropout. At a rate of nearly 1 its place is known exactly.


def test_without_train_no_dropout_whatever_the_rates_and_rngs(key):
    got = run(
        classifier(hidden_dropout_prob=0.9, attention_probs_dropout_prob=0.9), folder().params, *inputs(), key=key
    )
    assert_close(got, golden()["logits"])


def test_dropout_differs_by_key_and_only_by_key():
    def train(seed):
        return classify(*inputs(), key=jax.random.key(seed), train=True)

    np.testing.assert_array_equal(train(1), train(1))
    assert moved(train(1), train(2)) > 1e-2
    assert moved(train(1), golden()["logits"]) > 1e-2


def test_dropout_of_the_embeddings_comes_after_their_layer_norm(key):
    model = encoder(hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.0)
    (first, *_), _ = encode(*inputs(), model=model, key=key, train=True)
    dropped = np.asarray(first) == 0
    assert 0.35 < dropped.mean() < 0.65
    assert_close(first, np.where(dropped, 0, 2 * golden()["states"][0]))


def test_dropout_of_a_projection_comes_before_its_residual(key):
    model = encoder(hidden_dropout_prob=NEARLY_ALL, attention_probs_dropout_prob=0.0)
    states, _ = encode(*inputs(), model=model, key=key, train=True)
    expected = np.zeros((4, 11, 12))
    for i in range(2):
        layer = folder().params["bert"]["encoder"]["layer"][str(i)]
        expected = layer_norm(
            layer_norm(expected, layer["attention"]["output"]["LayerNorm"]), layer["output"]["LayerNorm"]
        )
        assert_close(states[i + 1], expected)


def test_dropout_of_attention_takes_away_what_the_values_say(key):
    rates = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": NEARLY_ALL}
    leaves = {p: 0 * leaf if "/self/value/" in p else leaf for p, leaf in flat(folder().params).items()}
    silent = unflatten_dict(leaves, sep="/")
    got, _ = encode(*inputs(), model=encoder(**rates), key=key, train=True)
    assert_close(got[-1], encode(*inputs(), params=silent["bert"])[0][-1])
    assert moved(got[-1], golden()["states"][-1]) > 0.1
    logits = run(classifier(**rates), folder().params, *inputs(), key=key, train=True)
    assert_close(logits, run(classifier(), silent, *inputs()))
    assert moved(logits, golden()["logits"]) > 0.01


def test_the_classifier_drops_what_it_reads(key):
    model, params = classifier(hidden_dropout_prob=NEARLY_ALL), folder().params
    expected = np.tile(params["classifier"]["bias"], (4, 1))
    assert_close(run(model, params, *inputs(), key=key, train=True), expected)
    features = jnp.asarray(golden()["states"][-1][:, 0])
    assert_close(run(model, params, features, key=key, train=True, method="from_features"), expected)
    assert_close(run(model, params, features, key=key, method="from_features"), golden()["logits"])


@pytest.mark.parametrize(("encoders", "its_own", "dropped"), [(0.0, NEARLY_ALL, True), (0.9, 0.0, False)])
def test_the_classifier_can_have_a_rate_of_its_own(encoders, its_own, dropped, key):
    model, params = classifier(hidden_dropout_prob=encoders, classifier_dropout=its_own), folder().params
    features = jnp.asarray(golden()["states"][-1][:, 0])
    got = run(model, params, features, key=key, train=True, method="from_features")
    assert_close(got, np.tile(params["classifier"]["bias"], (4, 1)) if dropped else golden()["logits"])


def test_a_masked_lm_drops_out_in_its_encoder(key):
    model = masked_lm(hidden_dropout_prob=NEARLY_ALL, attention_probs_dropout_prob=0.0)
    got = np.asarray(run(model, masked_lm_params(), *inputs(), key=key, train=True))
    assert_close(got, np.broadcast_to(got[:1, :1], got.shape), 1e-6)  # no token knows what it is


# Fresh weights


def test_the_default_is_bert_tiny():
    """4,385,920 parameters: what `prajjwal1/bert-tiny` and `google/bert_uncased_L-2_H-128_A-2` hold."""
    shapes = jax.eval_shape(BertModel(BertConfig()).init, jax.random.key(0), jnp.ones((1, 1), jnp.int32))["params"]
    assert report(shapes).base == 4_385_920


def test_fresh_matrices_are_drawn_as_the_paper_draws_them(key):
    """Standard deviation 0.02 for every matrix and embedding; LayerNorm is the identity and biases are 0."""
    model = BertForMaskedLM(BertConfig(vocab_size=400, hidden_size=64, intermediate_size=96, num_hidden_layers=1))
    for path, leaf in flat(jax.jit(model.init)(key, jnp.ones((1, 1), jnp.int32))["params"]).items():
        if path.endswith(("kernel", "word_embeddings/embedding", "position_embeddings/embedding")):
            assert 0.018 < np.std(leaf) < 0.022, path
        elif not path.endswith("embedding"):
            np.testing.assert_array_equal(leaf, 1.0 if path.endswith("scale") else 0.0, err_msg=path)


# LoRA

LORA = LoRAConfig(rank=2, alpha=3, targets=("query", "value"))


@functools.cache
def adapted() -> dict:
    """The golden classifier with random adapters, a and b."""
    return randomised(adapt(jax.random.key(1), folder().params, LoRA(classifier(), LORA), *inputs()), seed=5)


def test_lora_on_queries_and_values_is_the_merged_model():
    got = run(LoRA(classifier(), LORA), adapted(), *inputs())
    assert {path for path in flat(adapted()) if path.endswith("lora_b")} == {
        f"bert/encoder/layer/{i}/attention/self/{name}/lora_b" for i in range(2) for name in ("query", "value")
    }
    assert_close(got, run(classifier(), dense_base(adapted()), *inputs()))
    assert_close(got, run(classifier(), merge(adapted()), *inputs()))
    assert moved(got, golden()["logits"]) > 0.05
    assert_close(run(classifier(), strip(adapted()), *inputs()), golden()["logits"])


def test_lora_reaches_the_model_through_its_methods():
    model = LoRA(classifier(), LORA)
    features = run(model, adapted(), *inputs(), method="features")
    assert_close(features, run(classifier(), merge(adapted()), *inputs(), method="features"))
    assert moved(features, golden()["states"][-1][:, 0]) > 0.05


def test_lora_on_the_tied_embedding_is_seen_on_both_of_its_sides():
    model = LoRA(masked_lm(), LoRAConfig(rank=2, targets=("word_embeddings", "query")))
    params = randomised(adapt(jax.random.key(2), masked_lm_params(), model, *inputs()), seed=6)
    got = run(model, params, *inputs())
    assert_trees_close(got, run(masked_lm(), dense_base(params), *inputs()))
    assert moved(got[real()], golden()["mlm_logits"][real()]) > 0.1


def test_bert_tiny_at_rank_8_trains_8192_parameters_and_its_head():
    model = LoRA(BertForSequenceClassification(BertConfig()), LoRAConfig(rank=8, targets=("query", "value")))
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, 1), jnp.int32))["params"]
    got = report(params, trainable_mask(params, train="classifier"))
    assert got.adapter == 2 * 2 * (128 * 8 + 8 * 128) == 8_192
    assert got.trainable == 8_192 + 258
    assert got.base == 4_385_920 + 258


def test_an_adapter_comes_back_with_its_head_and_gives_the_same_logits(tmp_path):
    mask = trainable_mask(adapted(), train="classifier")
    trained = {**adapted(), "classifier": jax.tree.map(lambda leaf: leaf + 1, adapted()["classifier"])}
    checkpoint.save_adapter(tmp_path, trained, LORA, mask=mask)
    fresh = randomised(adapted(), seed=6)
    restored = checkpoint.restore_adapter(tmp_path, fresh, LORA, mask=mask)
    model = LoRA(classifier(), LORA)
    np.testing.assert_array_equal(run(model, restored, *inputs()), run(model, trained, *inputs()))
    assert moved(run(model, restored, *inputs()), run(model, fresh, *inputs())) > 0.05


def test_adapter_dropout_is_on_in_training_alone(key):
    """As BERT's own, with `train` and an rng."""
    config = dataclasses.replace(LORA, dropout=0.5)
    model, without = LoRA(classifier(), config), run(LoRA(classifier(), config), adapted(), *inputs())
    assert moved(run(model, adapted(), *inputs(), key=key, train=True), without) > 1e-3
    np.testing.assert_array_equal(run(model, adapted(), *inputs(), key=key), without)
