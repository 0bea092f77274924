"""Are folders of RoBERTa and DistilBERT read and written whole, or refused by name; and adapters by torch's names?"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import lora_jax
from lora_jax import peft
from lora_jax.errors import ModelError, PeftError
from lora_jax.models import bert_folder
from lora_jax.models.bert import BertConfig, BertForMaskedLM, BertForSequenceClassification, BertModel
from tests.bert_golden import GOLDEN, assert_close, assert_same, moved
from tests.cases import dense_base, flat, randomised
from tests.encoder_golden import (
    KINDS,
    NAMES,
    WORDS,
    classifiers,
    every_folder,
    folder,
    folder_of,
    golden,
    inputs,
    loaded,
    logits,
    real,
    tensors_of,
)

pytestmark = pytest.mark.usefixtures("quick_compile")


# Folders


@every_folder
def test_what_is_written_is_what_transformers_wrote(name, tmp_path):
    found = folder(name)
    bert_folder.write(tmp_path, found.config, found.params, about=found.values)
    got = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    assert got.keys() == tensors_of(name).keys()
    for key, tensor in tensors_of(name).items():
        np.testing.assert_array_equal(got[key], tensor)
    about, expected = (json.loads((path / "config.json").read_text()) for path in (tmp_path, GOLDEN / name))
    assert about == {key: value for key, value in expected.items() if key not in ("dtype", "transformers_version")}
    again = bert_folder.read(tmp_path)
    assert_same(again.params, found.params)
    assert again.config == found.config and again.labels == found.labels


@classifiers
def test_labels_are_the_folder_s(name, tmp_path):
    model, _ = loaded(name)
    assert (model.num_labels, model.labels, folder(name).labels) == (5, WORDS, WORDS)
    silent = folder_of(tmp_path, name, id2label=..., label2id=...)
    assert bert_folder.read(silent).labels is None
    assert bert_folder.model_of(bert_folder.read(silent))[0].num_labels == 5


@classifiers
@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            {"id2label": {"0": "no", "1": "yes"}},
            "the classifier has 5 labels, and id2label of config.json 2; name as many there",
        ),
        ({"id2label": ..., "num_labels": 3}, "the classifier has 5 labels, and num_labels of config.json 3"),
        (
            {"id2label": {str(i): str(i) for i in range(1, 6)}},
            "the keys of id2label are 1, 2, 3, 4, 5; they must be 0, 1",
        ),
        ({"id2label": {str(i): [] for i in range(5)}}, "id2label is "),
        ({"id2label": []}, "id2label is "),
    ],
    ids=str,
)
def test_labels_that_are_not_the_head_s_are_refused(name, said, words, tmp_path):
    with pytest.raises(ModelError, match=words):
        bert_folder.read(folder_of(tmp_path, name, **said))


@every_folder
def test_half_a_head_is_refused(name, tmp_path):
    gone = {"roberta_odd": "classifier.dense.bias", "roberta_odd_mlm": "lm_head.bias"}
    gone |= {"distilbert_odd": "pre_classifier.weight", "distilbert_odd_mlm": "vocab_transform.weight"}
    with pytest.raises(ModelError, match=f"missing {gone[name]}"):
        bert_folder.read(folder_of(tmp_path, name, lambda t: {key: x for key, x in t.items() if key != gone[name]}))


@pytest.mark.parametrize("name", NAMES[1::2])
def test_the_output_layer_is_the_table_or_refused(name, tmp_path):
    layer = {"roberta_odd_mlm": "lm_head.decoder", "distilbert_odd_mlm": "vocab_projector"}[name]
    table = f"{name.split('_')[0]}.embeddings.word_embeddings.weight"
    tied = folder_of(tmp_path, name, lambda t: t | {f"{layer}.weight": t[table]})
    assert_same(bert_folder.read(tied).params, folder(name).params)
    with pytest.raises(ModelError, match=rf"{layer}\.weight is not the embedding matrix"):
        bert_folder.read(folder_of(tmp_path, name, lambda t: t | {f"{layer}.weight": t[table] + 1}))


def test_a_bias_under_two_names_is_one(tmp_path):
    name, twin = "roberta_odd_mlm", "lm_head.decoder.bias"
    same = folder_of(tmp_path, name, lambda t: t | {twin: t["lm_head.bias"]})
    assert_same(bert_folder.read(same).params, folder(name).params)
    other = folder_of(tmp_path, name, lambda t: {twin if key == "lm_head.bias" else key: x for key, x in t.items()})
    assert_same(bert_folder.read(other).params, folder(name).params)
    with pytest.raises(ModelError, match=r"lm_head\.decoder\.bias is not lm_head\.bias, which is the same parameter"):
        bert_folder.read(folder_of(tmp_path, name, lambda t: t | {twin: t["lm_head.bias"] + 1}))


@classifiers
def test_the_encoder_alone_is_read_without_its_prefix(name, tmp_path):
    prefix = f"{name.split('_')[0]}."

    def bare(tensors):
        return {key.removeprefix(prefix): x for key, x in tensors.items() if key.startswith(prefix)}

    found = bert_folder.read(folder_of(tmp_path, name, bare, architectures=[f"{prefix}Model"]))
    assert_same(found.params, {"bert": folder(name).params["bert"]})
    model, params = bert_folder.model_of(found)
    assert isinstance(model, BertModel) and not model.has_pooler
    got, pooled = model.apply({"params": params}, *inputs())
    assert_close(got[-1][real()], golden()[f"{name}_states"][-1][real()])
    assert pooled is None


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            {"model_type": "deberta"},
            "architecture is 'deberta'; what can be read here is bert, roberta, xlm-roberta, camembert, distil",
        ),
        ({"pad_token_id": None}, "pad_token_id is null; expected an integer"),
        (
            {"pad_token_id": 23},
            "pad_token_id is 23; positions of a roberta are counted from it, so that it must be a token, 0 to 22",
        ),
        ({"pad_token_id": -1}, "pad_token_id is -1"),
        (
            {"max_position_embeddings": 4},
            "max_position_embeddings is 4; a roberta whose pad_token_id is 3 has its first position at 4",
        ),
        (
            {"position_embedding_type": "relative_key_query"},
            "position_embedding_type is 'relative_key_query'; relative positions",
        ),
        ({"is_decoder": True}, "is_decoder is True; .*decoders are not supported"),
        (
            {"hidden_size": ..., "vocab_size": ...},
            "hidden_size, vocab_size missing; the config.json of a roberta gives its sizes",
        ),
        ({"architectures": "RobertaModel"}, "architectures is "),
    ],
    ids=str,
)
def test_a_roberta_that_cannot_be_is_refused_with_its_file(config, words, tmp_path):
    with pytest.raises(ModelError, match=f"config.json: .*{words}"):
        bert_folder.read(folder_of(tmp_path, "roberta_odd", **config))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"dim": ..., "n_layers": ...}, "dim, n_layers missing; the config.json of a distilbert gives its sizes"),
        ({"dim": "8"}, 'dim is "8"; expected an integer'),
        ({"activation": "silu"}, "hidden_act is 'silu'"),
        ({"n_layers": 100000}, "num_hidden_layers is 100000, and the weights have 2 layers"),
    ],
    ids=str,
)
def test_a_distilbert_that_cannot_be_is_refused(config, words, tmp_path):
    with pytest.raises(ModelError, match=words):
        bert_folder.read(folder_of(tmp_path, "distilbert_odd", **config))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"model_type": "albert"},
            "model_type is 'albert'; there are bert, roberta, xlm-roberta, camembert, distilbert",
        ),
        ({"model_type": "distilbert"}, "type_vocab_size is 2; a distilbert has 0 and no other"),
        (
            {**KINDS["distilbert"], "layer_norm_eps": 1e-5},
            "layer_norm_eps is 1e-05; a distilbert has 1e-12 and no other",
        ),
        ({"pad_token_id": "0"}, "pad_token_id is '0'; it must be an integer"),
    ],
    ids=str,
)
def test_a_config_of_no_family_is_refused(fields, words):
    with pytest.raises(ModelError, match=f"^BertConfig: {words}"):
        BertConfig(**fields)


# What a folder is built into


@every_folder
def test_architectures_say_which_model_it_is(name, tmp_path):
    is_mlm = name.endswith("mlm")
    assert isinstance(loaded(name)[0], BertForMaskedLM if is_mlm else BertForSequenceClassification)
    silent = bert_folder.model_of(bert_folder.read(folder_of(tmp_path, name, architectures=...)))
    assert isinstance(silent[0], type(loaded(name)[0]))
    assert_same(silent[1], loaded(name)[1])
    encoder = bert_folder.model_of(bert_folder.read(folder_of(tmp_path, name, architectures=["RobertaModel"])))
    assert isinstance(encoder[0], BertModel)
    assert_same(encoder[1], folder(name).params["bert"])
    other = "RobertaForSequenceClassification" if is_mlm else "RobertaForMaskedLM"
    with pytest.raises(
        ModelError, match="config.json names a model with a head, and the weights have no .*; num_labels= starts"
    ):
        bert_folder.model_of(bert_folder.read(folder_of(tmp_path, name, architectures=[other])))


@every_folder
def test_num_labels_starts_a_new_head(name, key):
    model, params = bert_folder.model_of(folder(name), num_labels=3, key=key, dtype=jnp.bfloat16)
    assert (type(model), model.num_labels, model.labels, model.dtype) == (
        BertForSequenceClassification,
        3,
        None,
        jnp.bfloat16,
    )
    assert_same(params["bert"], folder(name).params["bert"])
    assert params["classifier"]["out_proj"]["kernel"].shape == (8, 3)
    assert 0.01 < np.std(params["classifier"]["dense"]["kernel"]) < 0.03
    assert model.apply({"params": params}, *inputs()).shape == (4, 3)
    for count, its in ((0, key), (True, key), (3, None)):
        with pytest.raises(ModelError, match="num_labels is .*, key is .*; a new head takes 1 label or more and a key"):
            bert_folder.model_of(folder(name), num_labels=count, key=its)


def test_a_bert_has_its_pooler_or_a_new_one(key):
    bert, mlm = folder("bert_odd"), folder("bert_odd_mlm")
    model, params = bert_folder.model_of(mlm)
    assert isinstance(model, BertForMaskedLM) and not model.has_pooler and "pooler" not in params["bert"]
    assert bert_folder.model_of(bert)[1]["bert"]["pooler"] is not None
    _, params = bert_folder.model_of(mlm, num_labels=2, key=key)
    assert params["bert"]["pooler"]["dense"]["kernel"].shape == (12, 12)


@pytest.mark.parametrize("kind", ["Roberta", "DistilBert"])
def test_a_head_for_tokens_is_no_classifier_of_sentences(kind, tmp_path):
    """It is called like one, and is left out; the encoder is there."""
    name = f"{kind.lower()}_odd"
    heads = ("classifier", "pre_classifier")

    def change(tensors):
        kept = {key: x for key, x in tensors.items() if not key.startswith(heads)}
        return kept | {"classifier.weight": np.ones((5, 8), np.float32), "classifier.bias": np.ones(5, np.float32)}

    found = bert_folder.read(folder_of(tmp_path, name, change, architectures=[f"{kind}ForTokenClassification"]))
    assert found.ignored == ("classifier.bias", "classifier.weight") and found.params.keys() == {"bert"}
    assert isinstance(bert_folder.model_of(found)[0], BertModel)


def test_a_head_of_another_size_is_refused(key):
    model = BertForSequenceClassification(folder("roberta_odd").config, num_labels=2)
    with pytest.raises(ModelError, match=r"classifier/.* has shape .*leave 'classifier' out of `loaded`"):
        bert_folder.initialised(model, key, folder("roberta_odd").params)


# LoRA and PEFT


@every_folder
def test_lora_by_bert_s_names_is_the_merged_model(name):
    model, params = loaded(name)
    config = lora_jax.LoRAConfig(rank=2, alpha=3, targets=("query", "value", "output/dense", "word_embeddings"))
    adapted = randomised(lora_jax.adapt(jax.random.key(1), params, lora_jax.LoRA(model, config), *inputs()), seed=5)
    got = lora_jax.LoRA(model, config).apply({"params": adapted}, *inputs())
    assert_close(got, model.apply({"params": dense_base(adapted)}, *inputs()), 1e-4)
    assert moved(got, logits(name)) > 0.05
    assert sum(path.endswith("lora_b") for path in flat(adapted)) == 2 * 4 + 1


def adapted(name, targets, train=()):
    model, params = loaded(name)
    config = lora_jax.LoRAConfig(rank=2, alpha=3, targets=targets)
    params = randomised(lora_jax.adapt(jax.random.key(1), params, lora_jax.LoRA(model, config), *inputs()), seed=5)
    return model, config, params, lora_jax.trainable_mask(params, train=train)


@classifiers
@pytest.mark.parametrize("task", ["SEQ_CLS", None])
def test_c1_an_adapter_and_its_head_are_written_by_torch_s_names_and_read_again(name, task, tmp_path):
    """PEFT takes modules by the ends of their names, and DistilBERT's pre_classifier ends like its classifier."""
    model, config, params, mask = adapted(name, ("query", "value"), "classifier")
    params = {**params, "classifier": jax.tree.map(lambda leaf: leaf + 1, params["classifier"])}
    peft.save(tmp_path, params, config, model, mask=mask, task_type=task)
    about = json.loads((tmp_path / "adapter_config.json").read_text())
    keys = safetensors.numpy.load_file(tmp_path / "adapter_model.safetensors").keys()
    if name == "distilbert_odd":
        assert (about["target_modules"], about["modules_to_save"]) == (
            ["q_lin", "v_lin"],
            ["classifier", "pre_classifier"],
        )
        assert "base_model.model.distilbert.transformer.layer.0.attention.q_lin.lora_A.weight" in keys
    else:
        assert about["target_modules"] == ["query", "value"] and "base_model.model.classifier.out_proj.weight" in keys
    found = peft.load(tmp_path, loaded(name)[1], model)
    assert flat(found.params).keys() == flat(params).keys()
    assert_close(*(lora_jax.LoRA(model, config).apply({"params": p}, *inputs()) for p in (found.params, params)), 1e-6)


def test_c1_half_of_a_head_that_peft_would_take_whole_is_refused(tmp_path):
    model, config, params, mask = adapted("distilbert_odd", "query", "classifier/out_proj")
    with pytest.raises(
        PeftError, match="PEFT saves modules by the ends of their names, and 'pre_classifier' ends like 'classifier'"
    ):
        peft.save(tmp_path, params, config, model, mask=mask)
    peft.save(tmp_path, params, config, model, mask=mask, task_type="SEQ_CLS")  # the other half at the base's value


@pytest.mark.parametrize("name", NAMES[1::2])
def test_c1_an_adapter_of_the_tied_table_is_written_for_both_of_its_uses(name, tmp_path):
    """PEFT heeds ensure_weight_tying for tables of other names alone, so that a file without the output layer means another model."""
    layer = {"roberta_odd_mlm": "lm_head.decoder", "distilbert_odd_mlm": "vocab_projector"}[name]
    model, config, params, mask = adapted(name, "word_embeddings")
    peft.save(tmp_path, params, config, model, mask=mask)
    file = tmp_path / "adapter_model.safetensors"
    tensors = safetensors.numpy.load_file(file)
    assert f"base_model.model.{layer}.lora_A.weight" in tensors
    found = peft.load(tmp_path, loaded(name)[1], model)
    assert_close(*(lora_jax.LoRA(model, config).apply({"params": p}, *inputs()) for p in (found.params, params)), 1e-6)
    safetensors.numpy.save_file({key: x for key, x in tensors.items() if layer not in key}, file)
    about = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**about, "target_modules": ["word_embeddings"]}))
    assert about["ensure_weight_tying"]
    with pytest.raises(PeftError, match="word_embeddings is tied: its adapter acts at all its uses"):
        peft.load(tmp_path, loaded(name)[1], model)
