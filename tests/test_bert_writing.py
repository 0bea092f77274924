"""Is what is written what transformers would write; are heads started anew where there are none; are folders found?"""

import json
import pathlib
import shutil
import types

import huggingface_hub.constants
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from etils import epath
from flax.traverse_util import unflatten_dict
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

from lora_jax.errors import ModelError
from lora_jax.models import bert_folder, weight_files
from lora_jax.models.bert import BertForMaskedLM, BertForSequenceClassification
from tests.bert_golden import GOLDEN, LABELS, assert_same, classifier, contents, folder, masked_lm
from tests.cases import flat

pytestmark = pytest.mark.usefixtures("quick_compile")

PATH = type(epath.Path("."))
BOTH = pytest.mark.parametrize("name", ["bert_odd", "bert_odd_mlm"])


def write(path, name="bert_odd", **kwargs) -> pathlib.Path:
    bert_folder.write(path, folder(name).config, folder(name).params, **kwargs)
    return path


# Writing


@BOTH
def test_tensors_are_written_as_transformers_writes_them(tmp_path, name):
    write(tmp_path / "new" / "folder", name)
    got, expected = (
        safetensors.numpy.load_file(p / "model.safetensors") for p in (tmp_path / "new/folder", GOLDEN / name)
    )
    assert got.keys() == expected.keys()
    for tensor, wanted in ((got[key], expected[key]) for key in expected):
        assert tensor.dtype == wanted.dtype
        np.testing.assert_array_equal(tensor, wanted)
    with safetensors.safe_open(tmp_path / "new/folder/model.safetensors", framework="np") as file:
        assert file.metadata() == {"format": "pt"}


@BOTH
def test_the_config_is_what_transformers_writes(tmp_path, name):
    got, expected = (json.loads((p / "config.json").read_text()) for p in (write(tmp_path, name), GOLDEN / name))
    assert {key: expected[key] for key in got if key not in ("id2label", "label2id")} == {
        key: value for key, value in got.items() if key not in ("id2label", "label2id")
    }
    assert {"architectures", "model_type", "hidden_size", "num_attention_heads", "layer_norm_eps"} <= got.keys()
    if name == "bert_odd":
        assert (got["id2label"], got["label2id"]) == (expected["id2label"], expected["label2id"])


@BOTH
def test_what_is_written_is_read_exactly(tmp_path, name):
    got = bert_folder.read(write(tmp_path, name))
    assert got.config == folder(name).config
    assert_same(got.params, folder(name).params)
    assert sorted(contents(tmp_path)) == ["config.json", "model.safetensors"]


def test_labels_are_as_many_as_the_head_has(tmp_path):
    head = {"kernel": jnp.ones((12, 2)), "bias": jnp.ones(2)}
    bert_folder.write(tmp_path, folder().config, {**folder().params, "classifier": head})
    about = json.loads((tmp_path / "config.json").read_text())
    assert about["id2label"] == {"0": "LABEL_0", "1": "LABEL_1"}
    assert len(about["label2id"]) == 2 != LABELS


def test_an_encoder_alone_is_written_as_such(tmp_path):
    params = jax.tree.map(np.asarray, {"bert": folder().params["bert"]})  # numpy will do
    bert_folder.write(tmp_path, folder().config, params)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["BertModel"]
    assert_same(bert_folder.read(tmp_path).params, params)


def rounded(leaf) -> np.ndarray:
    """To the nearest bfloat16, ties to even, by arithmetic on the bits."""
    bits = np.asarray(leaf).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).view(np.float32)


def test_bfloat16_is_rounded_once(tmp_path):
    write(tmp_path, dtype=jnp.bfloat16)
    tensors = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {jnp.dtype(jnp.bfloat16)}
    stored = bert_folder.read(tmp_path).params
    assert {leaf.dtype for leaf in flat(stored).values()} == {jnp.dtype(jnp.bfloat16)}
    got = bert_folder.read(tmp_path, param_dtype=jnp.float32).params
    assert {leaf.dtype for leaf in flat(got).values()} == {jnp.dtype(jnp.float32)}
    assert_same(got, jax.tree.map(rounded, folder().params))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=str)
def test_a_folder_in_a_bucket_is_as_one_here(dtype, bucket, tmp_path):
    here = bert_folder.read(write(tmp_path / "here", dtype=dtype))
    assert_same(bert_folder.read(write("gs://bucket/there", dtype=dtype)).params, here.params)
    assert sorted(path.name for path in (bucket / "there").iterdir()) == ["config.json", "model.safetensors"]


def test_adapters_are_not_written(tmp_path):
    query = "bert/encoder/layer/0/attention/self/query"
    leaves = {**flat(folder().params), f"{query}/lora_a": jnp.ones((12, 1)), f"{query}/lora_b": jnp.ones((1, 12))}
    with pytest.raises(ModelError, match="unexpected bert.encoder.layer.0.attention.self.query.lora_a"):
        bert_folder.write(tmp_path / "new", folder().config, unflatten_dict(leaves, sep="/"))
    assert not (tmp_path / "new").exists()


def test_parameters_that_do_not_fit_the_config_are_not_written(tmp_path):
    leaves = {path: leaf for path, leaf in flat(folder().params).items() if "embeddings/LayerNorm" not in path}
    leaves |= {"classifier/kernel": jnp.ones((11, LABELS)), "head/bias": jnp.ones(1)}
    with pytest.raises(ModelError) as caught:
        bert_folder.write(tmp_path / "new", folder().config, unflatten_dict(leaves, sep="/"))
    assert str(caught.value) == (
        "the parameters do not fit the config: classifier.weight is [5, 11], expected [5, 12]; missing "
        "bert.embeddings.LayerNorm.bias; missing bert.embeddings.LayerNorm.weight; unexpected head.bias."
    )
    assert not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ModelError, match="cannot write .*: (File exists|Not a directory)"):
            write(path)


# Starting from a folder


def test_a_head_is_fresh_where_the_folder_has_none(key):
    loaded = folder("bert_odd_mlm").params
    model = BertForSequenceClassification(folder("bert_odd_mlm").config, num_labels=2)
    params, new = bert_folder.initialised(model, key, loaded)
    assert new == ["bert/pooler/dense/bias", "bert/pooler/dense/kernel", "classifier/bias", "classifier/kernel"]
    leaves = flat(params)
    kept = {path: leaf for path, leaf in flat(loaded).items() if path.startswith("bert/")}
    assert leaves.keys() == kept.keys() | set(new)
    assert all(leaves[path] is leaf for path, leaf in kept.items())
    assert leaves["classifier/kernel"].shape == (12, 2)
    assert 0.01 < np.std(leaves["classifier/kernel"]) < 0.03
    assert not leaves["classifier/bias"].any()
    drawn = jax.jit(lambda key: model.init(key, jnp.ones((1, 1), jnp.int32))["params"]["classifier"]["kernel"])(key)
    np.testing.assert_allclose(leaves["classifier/kernel"], drawn, rtol=1e-6)


def test_nothing_is_fresh_where_the_folder_has_all(key):
    params, new = bert_folder.initialised(classifier(), key, folder().params)
    assert new == []
    assert_same(params, folder().params)


def test_a_head_of_another_size_is_refused_and_can_be_left_out(key):
    model = BertForSequenceClassification(folder().config, num_labels=2)
    with pytest.raises(ModelError, match=r"classifier/.* has shape .*leave 'classifier' out of `loaded`"):
        bert_folder.initialised(model, key, folder().params)
    _, new = bert_folder.initialised(model, key, {"bert": folder().params["bert"]})
    assert new == ["classifier/bias", "classifier/kernel"]


def test_an_encoder_of_another_size_is_refused(key):
    with pytest.raises(
        ModelError, match=r"bert/.* has shape .*, and .* in the model; give the model the folder's config"
    ):
        bert_folder.initialised(masked_lm(intermediate_size=24), key, folder("bert_odd_mlm").params)


def test_a_masked_lm_keeps_its_head(key):
    params, new = bert_folder.initialised(BertForMaskedLM(folder().config), key, folder("bert_odd_mlm").params)
    assert new == ["bert/pooler/dense/bias", "bert/pooler/dense/kernel"]
    assert_same(params["cls"], folder("bert_odd_mlm").params["cls"])


# Finding a folder, here or on the hub


def test_a_folder_is_itself(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    assert weight_files.locate(str(tmp_path / "model")) == tmp_path / "model"
    assert weight_files.locate(tmp_path / "model") == tmp_path / "model"
    assert weight_files.locate("~/model") == tmp_path / "model"


@pytest.mark.parametrize(
    "name", ["a/b/c", "what is this", "x--y", "owner/", "https://x.y/z", "./runs/bert", "model.git"]
)
def test_a_name_that_no_model_can_have_is_refused_without_the_network(name, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="there is no such folder, and it is no name on the Hugging Face hub"):
        weight_files.locate(name)


def test_an_empty_name_is_not_the_working_directory():
    with pytest.raises(ModelError, match="name is empty"):
        weight_files.locate("")


def test_a_model_that_is_not_in_the_cache_offline_is_a_sentence(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"not in the Hugging Face cache, and the hub cannot be reached \(LocalEntry"):
        weight_files.locate("nobody-at-all/no-such-bert")


def hub(monkeypatch, answer):
    """A hub that gives `answer(allow_patterns)`; the calls it had."""
    calls = []

    def snapshot_download(name, *, allow_patterns):
        calls.append((name, allow_patterns))
        return answer(allow_patterns)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return calls


def raises(error):
    def answer(patterns):
        raise error

    return answer


def test_a_file_is_no_folder_and_the_hub_is_not_asked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    calls = hub(monkeypatch, lambda patterns: str(tmp_path))
    with pytest.raises(ModelError, match="^file is a file; name the folder that it lies in"):
        weight_files.locate("file")
    assert calls == []


def test_what_the_hub_says_is_passed_on(monkeypatch):
    response = types.SimpleNamespace(headers={}, request=None)
    hub(monkeypatch, raises(RepositoryNotFoundError("401 Client Error.\n\nRepository Not Found", response=response)))
    with pytest.raises(ModelError, match=r"^owner/model: no such folder here, and .* hub answers 401 Client Error\.$"):
        weight_files.locate("owner/model")
    for error in (LocalEntryNotFoundError("no"), ConnectionError("no route"), OSError("disk")):
        hub(monkeypatch, raises(error))
        with pytest.raises(ModelError, match=rf"cannot be reached \({type(error).__name__}\); download it"):
            weight_files.locate("owner/model")


@pytest.mark.parametrize("weights", ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"])
def test_the_hub_is_asked_for_a_pickle_only_where_it_has_no_safetensors(tmp_path, monkeypatch, weights):
    def answer(patterns):
        shutil.copy(GOLDEN / "bert_odd" / "config.json", tmp_path)
        if weights in patterns:
            (tmp_path / weights).touch()
        return str(tmp_path)

    calls = hub(monkeypatch, answer)
    assert weight_files.locate("owner/model") == tmp_path
    assert (tmp_path / weights).is_file()
    assert [name for name, _ in calls] == ["owner/model"] * (2 if weights == "pytorch_model.bin" else 1)
    assert "pytorch_model.bin" not in calls[0][1]
    assert {"config.json", "vocab.txt", "model-*.safetensors"} <= set(calls[0][1])
