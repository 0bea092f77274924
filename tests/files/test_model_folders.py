"""Are folders of BERT and Llama whole at every moment, and refused where what is in them cannot be meant?"""

import dataclasses
import json
import shutil
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from lora_jax.errors import ModelError
from lora_jax.models import bert_folder, causal_folder
from lora_jax.models.bert import BertConfig, BertForSequenceClassification
from lora_jax.models.causal_lm import CausalLM, CausalLMConfig
from tests.files.faults import content, lay, states

BERT = BertConfig(20, 8, 1, 2, 8, 16)
ENCODERS = {
    "bert": BERT,
    "roberta": dataclasses.replace(BERT, model_type="roberta", type_vocab_size=1, pad_token_id=3),
    "distilbert": dataclasses.replace(BERT, model_type="distilbert", type_vocab_size=0),
}
LLAMA = CausalLMConfig(20, 8, 8, 2, 2, 1, 16)
TENSOR = {"bert": "bert.pooler.dense.weight", "llama": "model.norm.weight"}


def of(kind, seed=0):
    """(module that reads and writes, config, parameters)."""
    ids = jnp.ones((1, 1), jnp.int32)
    if kind in ENCODERS:
        model = BertForSequenceClassification(ENCODERS[kind], 2)
        return bert_folder, model.config, model.init(jax.random.key(seed), ids)["params"]
    return causal_folder, LLAMA, CausalLM(LLAMA).init(jax.random.key(seed), ids)["params"]


BOTH = pytest.mark.parametrize("kind", ["bert", "llama"])


@BOTH
def test_d1_a_folder_that_is_overwritten_is_old_or_new_between_every_two_calls(tmp_path, kind):
    """Config, weights and tokenizer: the config says another rope base or epsilon, which no shape would tell."""
    folders, config, params = of(kind)
    other = type(config)(**{**config.__dict__, ("layer_norm_eps" if kind == "bert" else "rope_theta"): 0.5})
    new = of(kind, 1)[2]
    folders.write(tmp_path / "model", config, params, beside={"tokenizer.json": b"old"})
    seen = []
    for state in states(
        tmp_path, lambda: folders.write(tmp_path / "model", other, new, beside={"tokenizer.json": b"new"})
    ):
        files = tuple(state[f"model/{name}"] for name in ("config.json", "model.safetensors", "tokenizer.json"))
        if not seen or seen[-1] != files:
            seen.append(files)
            found = folders.read(lay(tmp_path.parent / f"{tmp_path.name}-at", state) / "model")
            is_new = files[2] == b"new"
            assert found.config == (other if is_new else config)
            jax.tree.map(np.testing.assert_array_equal, found.params, new if is_new else params)
            shutil.rmtree(tmp_path.parent / f"{tmp_path.name}-at")
    assert len(seen) == 2
    assert sorted(content(tmp_path)) == [
        "model",
        "model/config.json",
        "model/model.safetensors",
        "model/tokenizer.json",
    ]


def edited(tmp_path, kind, change, name=None):
    """A folder in which one tensor is another."""
    folders, config, params = of(kind)
    folders.write(tmp_path, config, params)
    tensors = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    tensors[name or TENSOR[kind]] = change(tensors[name or TENSOR[kind]])
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
    return folders


def with_one(value):
    def change(tensor):
        tensor = tensor.copy()
        tensor.reshape(-1)[1] = value
        return tensor

    return change


@BOTH
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: np.ones(t.shape, np.int8), "is int8, expected floating point"),
        (lambda t: np.ones(t.shape, np.uint8), "is uint8, expected floating point"),
        (lambda t: np.ones(t.shape, bool), "is bool, expected floating point"),
        (with_one(np.nan), "is not finite"),
        (with_one(-np.inf), "is not finite"),
    ],
    ids=["int8", "uint8", "bool", "nan", "inf"],
)
def test_d3_tensors_that_are_no_finite_floats_are_refused_by_name(tmp_path, kind, change, says):
    folders = edited(tmp_path, kind, change)
    with pytest.raises(ModelError, match=f"{TENSOR[kind]} {says}"):
        folders.read(tmp_path)


@BOTH
def test_d3_a_tensor_in_two_files_is_refused(tmp_path, kind):
    folders, config, params = of(kind)
    folders.write(tmp_path, config, params)
    tensors = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    safetensors.numpy.save_file(tensors, tmp_path / "model-1.safetensors")
    safetensors.numpy.save_file({TENSOR[kind]: tensors[TENSOR[kind]] + 1}, tmp_path / "model-2.safetensors")
    names = dict.fromkeys(tensors, "model-1.safetensors") | {TENSOR[kind]: "model-2.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    with pytest.raises(ModelError, match=f"{TENSOR[kind]} is in two of its files"):
        folders.read(tmp_path)


@BOTH
def test_parameters_that_could_not_be_read_again_are_not_written(tmp_path, kind):
    folders, config, params = of(kind)
    for spoilt, dtype, says in (
        (jax.tree.map(lambda leaf: leaf.at[(0,) * leaf.ndim].set(jnp.nan), params), jnp.float32, "is not finite"),
        (jax.tree.map(lambda leaf: leaf + 1e6, params), jnp.float16, "cannot be written as float16: .* is not finite"),
        (params, jnp.int8, "is int8, expected floating point"),
    ):
        with pytest.raises(ModelError, match=says):
            folders.write(tmp_path / "new", config, spoilt, dtype=dtype)
        assert not (tmp_path / "new").exists()


CONFIGS = [
    ("bert", "hidden_act", [], 'hidden_act is \\[\\]; expected a string'),
    ("bert", "num_hidden_layers", 1_000_000, "num_hidden_layers is 1000000, and the weights have 1 layers"),
    ("llama", "num_hidden_layers", 1_000_000, "num_hidden_layers is 1000000, and the weights have 2 layers"),
    ("bert", "num_hidden_layers", "2", "num_hidden_layers is \"2\"; expected an integer"),
    ("llama", "num_hidden_layers", True, "num_hidden_layers is true; expected an integer"),
    ("bert", "hidden_size", 2**40, "hidden_size is 1,099,511,627,776; it must be at most"),
    ("llama", "vocab_size", 2**31 - 1, "the weights do not fit config.json"),
    ("llama", "intermediate_size", 10**400, "at most"),
    ("llama", "rope_parameters", 1, "rope_parameters is 1; expected an object or null"),
    ("llama", "rope_parameters", {"rope_theta": "1e4"}, "rope_theta"),
    ("llama", "rope_scaling", 1, "rope_scaling"),
    ("llama", "tie_word_embeddings", "false", 'tie_word_embeddings is "false"; expected true or false'),
    ("llama", "rms_norm_eps", "1e-5", "rms_norm_eps is .*; expected a finite number"),
    ("llama", "head_dim", [], "head_dim is \\[\\]; expected an integer or null"),
    ("bert", "model_type", ["bert"], "model_type is .*; expected a string"),
    ("bert", "layer_norm_eps", None, "layer_norm_eps is null; expected a finite number"),
    ("bert", "is_decoder", "no", "is_decoder is .*; expected true or false"),
    ("bert", "classifier_dropout", {}, "classifier_dropout is"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "field", "value", "says"), CONFIGS, ids=[f"{c[0]} {c[1]}={str(c[2])[:20]}" for c in CONFIGS]
)
def test_d7_a_config_that_cannot_be_meant_is_refused_before_anything_is_built(tmp_path, kind, field, value, says):
    folders, config, params = of(kind)
    folders.write(tmp_path, config, params)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), field: value}))
    begun = time.monotonic()
    with pytest.raises(ModelError, match=says) as caught:
        folders.read(tmp_path)
    assert "\n" not in str(caught.value) and time.monotonic() - begun < 5


@BOTH
@pytest.mark.parametrize("text", ["[]", "null", "[" * 100_000, '{"model_type": "bert", "model_type": "llama"}', ""])
def test_d6_a_config_of_another_shape_is_one_sentence(tmp_path, kind, text):
    folders, config, params = of(kind)
    folders.write(tmp_path, config, params)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match=r"config\.json (holds|cannot be read)"):
        folders.read(tmp_path)


@pytest.mark.parametrize("name", ["classifier.bias", "classifier.weight", "bert.pooler.dense.bias"])
def test_half_a_head_is_refused(tmp_path, name):
    """It would have been filled up with a fresh other half."""
    folders, config, params = of("bert")
    folders.write(tmp_path, config, params)
    tensors = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    del tensors[name]
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=f"missing {name}"):
        folders.read(tmp_path)
