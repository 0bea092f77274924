"""PEFT's folders, further than factors: is each read as real PEFT computes it, written so that it stays, and refused where it cannot be held?"""

import dataclasses
import json
import pathlib
import re
import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import lora_jax
from lora_jax import LoRA, LoRAConfig, LoRAError, adapt, peft, strip, trainable_mask
from tests.bert_golden import assert_close, assert_same, contents
from tests.cases import flat, randomised
from tests.peft_more_golden import FOLDERS, MORE, loaded, logits, model, model_of, outputs

pytestmark = pytest.mark.usefixtures("quick_compile")
every_folder = pytest.mark.parametrize("name", FOLDERS)
KNOWN = 37  # rows of the vocabulary before it grew


def saved(folder: pathlib.Path, name: str, found: peft.Loaded, **more) -> pathlib.Path:
    m = model_of(name)
    mask = trainable_mask(found.params, train=found.train)
    rows = {"token_rows": list(found.token_rows), "base_params": m.params} if found.token_rows else {}
    about = {"base_model": found.base_model, "task_type": found.task_type}
    peft.save(folder, found.params, found.config, m.layout, names_of=m.names_of, mask=mask, **about, **{**rows, **more})
    return folder


def config(folder: pathlib.Path) -> dict:
    return json.loads((folder / "adapter_config.json").read_text())


def tensors(folder: pathlib.Path) -> dict[str, np.ndarray]:
    found = load_file(folder / "adapter_model.safetensors")
    return {key.removeprefix("base_model.model."): tensor for key, tensor in found.items()}


def copied(name: str, folder: pathlib.Path) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(MORE / name, folder / "spoilt"))


def respelt(folder: pathlib.Path, change) -> None:
    save_file(dict(change(load_file(folder / "adapter_model.safetensors"))), folder / "adapter_model.safetensors")


def reset(folder: pathlib.Path, **values) -> None:
    (folder / "adapter_config.json").write_text(json.dumps(config(folder) | values))


def assert_torch_s(got, name: str) -> None:
    """Within 1e-6; of a grown table whose output layer PEFT does not save, in the columns that were there before."""
    columns = slice(KNOWN) if name == "grown_adapted" else slice(None)
    assert_close(got[..., columns], outputs()[name][..., columns], 1e-6)


@every_folder
def test_c_what_the_file_has_is_seen_in_the_logits(name):
    m = model_of(name)
    base = m.module.apply({"params": m.params}, *m.args)
    assert np.abs(np.asarray(base) - outputs()[name]).max() > 1e-3


@every_folder
def test_c_logits_are_torch_s(name):
    assert_torch_s(logits(name, loaded(name)), name)


@every_folder
def test_c_written_and_read_again_they_are_the_same(name, tmp_path):
    once = saved(tmp_path / "once", name, loaded(name))
    assert_torch_s(logits(name, loaded(name, once)), name)
    assert contents(once) == contents(saved(tmp_path / "twice", name, loaded(name, once)))


# C1, C4: tied tables


class Tied(nn.Module):
    def setup(self):
        self.embed_tokens, self.q_proj = nn.Embed(9, 8), nn.Dense(8)

    def __call__(self, ids):
        return self.embed_tokens.attend(jnp.tanh(self.q_proj(self.embed_tokens(ids))))


IDS = jnp.arange(6).reshape(2, 3)


def tied(targets, name="embed_tokens", **fields):
    base, config_ = Tied(), LoRAConfig(rank=2, alpha=3, targets=targets, **fields)
    start = base.init(jax.random.key(0), IDS)["params"]
    params = randomised(adapt(jax.random.key(1), start, LoRA(base, config_), IDS), seed=3)
    return start, params, config_, lora_jax.layout(base, IDS)


class TiedByHand(nn.Module):
    """A table that is a parameter of its own."""

    @nn.compact
    def __call__(self, ids):
        table = self.param("table", nn.initializers.normal(), (9, 8))
        return jnp.tanh(nn.Dense(8, name="q_proj")(jnp.take(table, ids, axis=0))) @ table.T


def test_c1_a_tied_table_that_is_no_module(tmp_path):
    base, config_ = TiedByHand(), LoRAConfig(rank=2, targets="q_proj")
    start = base.init(jax.random.key(0), IDS)["params"]
    params = randomised(adapt(jax.random.key(1), start, LoRA(base, config_), IDS), seed=3)
    layout = lora_jax.layout(base, IDS)
    peft.save(tmp_path, params, config_, layout, mask=None)
    assert_same(peft.load(tmp_path, start, layout).params, params)
    with pytest.raises(LoRAError, match="table is a parameter of the model itself"):
        peft.save(tmp_path / "folder", params, config_, layout, mask=trainable_mask(params, train="table"))


def renamed(path):
    return path.replace("embed_tokens", "table").replace("/", ".")


def test_c1_a_tied_table_that_trains_whole_is_in_the_file_twice(tmp_path):
    start, params, config_, layout = tied("q_proj")
    mask = trainable_mask(params, train="embed_tokens")
    peft.save(tmp_path, params, config_, layout, mask=mask)
    found, about = tensors(tmp_path), config(tmp_path)
    np.testing.assert_array_equal(found["embed_tokens.weight"], params["embed_tokens"]["embedding"])
    np.testing.assert_array_equal(found["lm_head.weight"], params["embed_tokens"]["embedding"])
    assert (about["modules_to_save"], about["ensure_weight_tying"]) == (["embed_tokens", "lm_head"], True)
    assert_same(peft.load(tmp_path, start, layout).params, params)


def test_c1_a_tied_table_of_another_name_asks_for_its_output_layer(tmp_path):
    start, params, config_, layout = tied("q_proj")
    mask, named = trainable_mask(params, train="embed_tokens"), {"names_of": renamed}
    with pytest.raises(LoRAError, match="table is tied, .*output_layer="):
        peft.save(tmp_path / "folder", params, config_, layout, mask=mask, **named)
    assert not (tmp_path / "folder").exists()
    peft.save(tmp_path / "folder", params, config_, layout, mask=mask, output_layer="decoder", **named)
    assert "decoder.weight" in tensors(tmp_path / "folder")
    assert_same(peft.load(tmp_path / "folder", start, layout, **named).params, params)


def of_one_copy(found):
    return {key: t for key, t in found.items() if "lm_head" not in key}


def of_two_copies(found):
    return {key: t + ("lm_head" in key) for key, t in found.items()}


@pytest.mark.parametrize(
    ("change", "values", "message"),
    [
        (of_one_copy, {"ensure_weight_tying": False}, "embed_tokens.weight is tied here.*ensure_weight_tying"),
        (of_two_copies, {}, "lm_head.weight is another than model.embed_tokens.weight"),
    ],
)
def test_c1_copies_that_differ_or_are_missing_are_refused(change, values, message, tmp_path):
    folder = copied("tied_whole", tmp_path)
    respelt(folder, change)
    reset(folder, **values)
    with pytest.raises(LoRAError, match=message):
        loaded("tied_whole", folder)


def test_c1_one_copy_is_enough_where_peft_ties(tmp_path):
    folder = copied("tied_whole", tmp_path)
    respelt(folder, of_one_copy)
    assert_same(loaded("tied_whole", folder).params, loaded("tied_whole").params)


def test_c4_an_adapter_of_a_tied_table_is_written_for_both_its_modules(tmp_path):
    start, params, config_, layout = tied(("q_proj", "embed_tokens"))
    peft.save(tmp_path, params, config_, layout, mask=None)
    found, about = tensors(tmp_path), config(tmp_path)
    assert (about["target_modules"], about["ensure_weight_tying"]) == (["embed_tokens", "lm_head", "q_proj"], True)
    np.testing.assert_array_equal(found["lm_head.lora_A.weight"], found["embed_tokens.lora_embedding_B"].T)
    np.testing.assert_array_equal(found["lm_head.lora_B.weight"], found["embed_tokens.lora_embedding_A"].T)
    assert_same(peft.load(tmp_path, start, layout).params, params)


@pytest.mark.parametrize(
    ("change", "values", "message"),
    [
        (of_one_copy, {"ensure_weight_tying": False}, "embed_tokens is tied: its adapter acts at all its uses"),
        (of_two_copies, {}, "unexpected lm_head, which is no layer|lm_head.weight is another than"),
        (dict, {"alpha_pattern": {"lm_head": 7}}, "the scale of lm_head is 3.5 and that of model.embed_tokens 1.5"),
        (dict, {"use_dora": True}, "missing .*lora_magnitude_vector|is tied"),
    ],
)
def test_c4_an_adapter_that_is_not_the_same_at_both_is_refused(change, values, message, tmp_path):
    folder = copied("tied_adapter", tmp_path)
    respelt(folder, change)
    reset(folder, **values)
    with pytest.raises(LoRAError, match=message):
        loaded("tied_adapter", folder)


@pytest.mark.parametrize("name", ["tied_whole", "tied_adapter"])
def test_c4_what_is_tied_in_torch_may_be_two_leaves_here(name):
    m, leaves = model("untied"), flat(model("tied").params)
    base = lora_jax.tree.nested({**leaves, "lm_head/kernel": leaves["model/embed_tokens/embedding"].T})
    found = peft.load(MORE / name, base, m.layout, names_of=m.names_of)
    assert_torch_s(LoRA(m.module, found.config).apply({"params": found.params}, *m.args), name)


# C2


def test_c2_the_tensors_decide_what_the_number_of_a_layer_is(tmp_path):
    """Of old it was the last number in a path: layers_to_transform=[1] were the experts 1 of all layers."""
    folder, stem = copied("deep_layers", tmp_path), "base_model.model.model.layers"
    found = load_file(folder / "adapter_model.safetensors")
    one = {suffix: found[f"{stem}.1.experts.1.up_proj.{suffix}.weight"] for suffix in ("lora_A", "lora_B")}
    old = {f"{stem}.{i}.experts.1.up_proj.{suffix}.weight": t.copy() for i in range(3) for suffix, t in one.items()}
    save_file(old, folder / "adapter_model.safetensors")
    assert len(loaded("deep_layers").config.targets) == 2
    assert loaded("deep_layers", folder).config.targets == tuple(
        f"model/layers/{i}/experts/1/up_proj" for i in range(3)
    )
    respelt(folder, lambda found: {key: t for key, t in found.items() if ".2." not in key})
    with pytest.raises(
        LoRAError, match="missing the adapter of model.layers.1.experts.0.up_proj, which target_modules names"
    ):
        loaded("deep_layers", folder)


def test_c2_a_pattern_says_after_which_name_the_number_comes(tmp_path):
    folder = copied("deep_layers", tmp_path)
    reset(folder, layers_pattern="layers")
    assert_same(loaded("deep_layers", folder).params, loaded("deep_layers").params)
    reset(folder, layers_pattern="blocks")
    with pytest.raises(LoRAError, match="unexpected adapter of model.layers.1.experts.0"):
        loaded("deep_layers", folder)


# C3


def test_c3_three_copies_of_a_module_are_one(tmp_path):
    found = loaded("grown_whole")
    assert found.train == ("lm_head/kernel", "model/embed_tokens/embedding")
    folder = copied("grown_whole", tmp_path)
    respelt(folder, lambda found: {key: t + (".modules_to_save." in key) for key, t in found.items()})
    with pytest.raises(LoRAError, match="lm_head.weight twice, under two names and with different numbers"):
        loaded("grown_whole", folder)


def test_c3_the_base_s_copy_alone_is_no_module(tmp_path):
    folder = copied("grown_whole", tmp_path)
    respelt(folder, lambda found: {key: t for key, t in found.items() if "lm_head" not in key or "original" in key})
    with pytest.raises(LoRAError, match="unexpected lm_head.original_module.weight; .*missing lm_head.weight"):
        loaded("grown_whole", folder)


def test_c3_a_vocabulary_of_another_size_is_told():
    m = model("untied")
    with pytest.raises(LoRAError, match=r"embed_tokens.weight is \[40, 16\], expected \[37, 16\]"):
        peft.load(MORE / "grown_silently", m.params, m.layout, names_of=m.names_of)


def test_c3_a_table_under_an_adapter_is_saved_with_it(tmp_path):
    """`save_embedding_layers`: what PEFT writes where the vocabulary grew, or the table is a target."""
    found = loaded("grown_adapted")
    assert found.train == ("model/embed_tokens/embedding",)
    again = tensors(saved(tmp_path, "grown_adapted", found))
    expected = load_file(MORE / "grown_adapted" / "adapter_model.safetensors")[
        "base_model.model.model.embed_tokens.base_layer.weight"
    ]
    np.testing.assert_array_equal(again["model.embed_tokens.base_layer.weight"], expected)
    assert loaded("untied_mica").train == ()  # the file has the table there too, as it was


# C5


class Classifier(nn.Module):
    """A head as RoBERTa has it, of two layers."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, name="out_proj")(nn.tanh(nn.Dense(6, name="dense")(x)))


class Sequences(nn.Module):
    @nn.compact
    def __call__(self, x):
        return Classifier(name="classifier")(nn.Dense(6, name="body")(x))


def sequences(targets="body"):
    x, config_ = jnp.ones((2, 6)), LoRAConfig(rank=2, targets=targets)
    base = Sequences().init(jax.random.key(0), x)["params"]
    params = randomised(adapt(jax.random.key(1), base, LoRA(Sequences(), config_), x), seed=3)
    return base, params, config_, lora_jax.layout(Sequences(), x)


@pytest.mark.parametrize("train", [None, "classifier/out_proj", "classifier"])
def test_c5_the_head_that_a_task_asks_for_is_written(train, tmp_path):
    base, params, config_, layout = sequences()
    mask = None if train is None else trainable_mask(params, train=train)
    peft.save(tmp_path, params, config_, layout, mask=mask, task_type="SEQ_CLS")
    heads = {f"classifier.{layer}.{name}" for layer in ("dense", "out_proj") for name in ("weight", "bias")}
    assert heads <= tensors(tmp_path).keys()
    assert config(tmp_path)["modules_to_save"] == ["classifier"]
    assert_same(peft.load(tmp_path, base, layout).params, params)


def test_c5_a_task_without_its_head_is_refused(tmp_path):
    base, params, config_, layout = sequences()
    with pytest.raises(LoRAError, match="task_type='QUESTION_ANS' makes PEFT ask for a head called qa_outputs"):
        peft.save(tmp_path / "folder", params, config_, layout, mask=None, task_type="QUESTION_ANS")
    _, params, config_, layout = sequences("out_proj")
    with pytest.raises(LoRAError, match="classifier/out_proj has an adapter and PEFT saves it whole"):
        peft.save(tmp_path / "folder", params, config_, layout, mask=None, task_type="SEQ_CLS")
    assert not (tmp_path / "folder").exists()
    peft.save(tmp_path / "folder", params, config_, layout, mask=None, task_type="CAUSAL_LM")


class Stacked(nn.Module):
    @nn.compact
    def __call__(self, x):
        heads = nn.vmap(
            nn.Dense, in_axes=None, out_axes=0, axis_size=2, variable_axes={"params": 0}, split_rngs={"params": True}
        )
        return heads(3, name="score")(nn.Dense(6, name="body")(x))


def test_c5_a_head_in_a_stack_is_refused(tmp_path):
    x, config_ = jnp.ones((2, 6)), LoRAConfig(rank=2, targets="body")
    params = LoRA(Stacked(), config_).init(jax.random.key(0), x)["params"]
    names = {"names_of": lambda path: {"score": "heads.{}.score"}.get(path, path)}
    with pytest.raises(LoRAError, match="PEFT ask for heads.0.score, a layer of a stack"):
        peft.save(
            tmp_path / "folder", params, config_, lora_jax.layout(Stacked(), x), mask=None, task_type="SEQ_CLS", **names
        )


# C6: dtype


@pytest.mark.parametrize(
    ("dtype", "bits"), [(jnp.bfloat16, 8), ("float16", 11), (np.float32, 24)], ids=["bfloat16", "float16", "float32"]
)
def test_c6_a_file_may_be_of_half_precision(dtype, bits, tmp_path):
    found = loaded("bert_lora_bias")
    folder = saved(tmp_path / "half", "bert_lora_bias", found, dtype=dtype)
    assert {tensor.dtype for tensor in tensors(folder).values()} == {jnp.dtype(dtype)}
    got, expected = flat(loaded("bert_lora_bias", folder).params), flat(found.params)
    for path, leaf in expected.items():
        np.testing.assert_allclose(got[path], leaf, rtol=2.0**-bits, atol=1e-7, err_msg=path)


@pytest.mark.parametrize("dtype", ["int8", np.float64, "float8_e4m3fn", "nonsense", None, 3])
def test_c6_another_dtype_is_refused(dtype, tmp_path):
    with pytest.raises(LoRAError, match="dtype is .*; it must be one of float32, bfloat16, float16"):
        saved(tmp_path / "folder", "moe_one", loaded("moe_one"), dtype=dtype)


def test_c6_what_is_too_large_for_a_dtype_is_named(tmp_path):
    found = loaded("moe_one")
    large = {path: leaf * 1e6 if path.endswith("lora_b") else leaf for path, leaf in flat(found.params).items()}
    found = dataclasses.replace(found, params=lora_jax.tree.nested(large))
    with pytest.raises(LoRAError, match="experts.lora_B.weight has the value .*too large for float16; write float32"):
        saved(tmp_path / "folder", "moe_one", found, dtype="float16")
    assert not (tmp_path / "folder").exists()
    saved(tmp_path / "folder", "moe_one", found, dtype="bfloat16")


# C6: lora_bias


def test_c6_a_bias_of_lora_b_is_in_the_layer_s_own(tmp_path):
    found, base = loaded("bert_lora_bias"), flat(model("bert").params)
    path = "bert/encoder/layer/0/attention/self/query"
    b = load_file(MORE / "bert_lora_bias" / "adapter_model.safetensors")[
        f"base_model.model.{path.replace('/', '.')}.lora_B.bias"
    ]
    np.testing.assert_allclose(flat(found.params)[f"{path}/bias"], base[f"{path}/bias"] + 1.5 * b, rtol=1e-6, atol=1e-7)
    assert f"{path}/bias" in found.train


@pytest.mark.parametrize("fold", [False, True])
def test_c6_biases_are_written_as_those_of_lora_b(fold, tmp_path):
    name, m = "bert_lora_bias", model("bert")
    folder = saved(tmp_path / "again", name, loaded(name), lora_bias=True, base_params=m.params, fold_scaling=fold)
    assert config(folder)["lora_bias"] and config(folder)["bias"] == "none"
    got = tensors(folder)
    assert not any(key.endswith("base_layer.bias") for key in got)
    for key, tensor in load_file(MORE / name / "adapter_model.safetensors").items():
        if not fold:
            np.testing.assert_allclose(got[key.removeprefix("base_model.model.")], tensor, atol=1e-6, err_msg=key)
    assert_torch_s(logits(name, loaded(name, folder)), name)


def test_c6_a_bias_that_nothing_can_hold_is_refused(tmp_path):
    folder = copied("untied_layers", tmp_path)
    key = "base_model.model.model.layers.1.self_attn.q_proj.lora_B.bias"
    respelt(folder, lambda found: {**found, key: np.zeros(16, np.float32)})
    reset(folder, lora_bias=True)
    assert_same(loaded("untied_layers", folder).params, loaded("untied_layers").params)
    respelt(folder, lambda found: {**found, key: np.ones(16, np.float32)})
    with pytest.raises(LoRAError, match="unexpected .*q_proj.lora_B.bias: the layer has no bias here"):
        loaded("untied_layers", folder)


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("bert_lora_bias", {}, "pass base_params="),
        ("moe_one", {"base_params": {}}, "no such bias at experts.down_proj, which is a parameter"),
        ("untied_mica", {"base_params": {}}, "no such bias at model.embed_tokens, which is an embedding"),
    ],
)
def test_c6_biases_of_lora_b_that_peft_lacks_are_refused(name, more, message, tmp_path):
    with pytest.raises(LoRAError, match=message):
        saved(tmp_path / "folder", name, loaded(name), lora_bias=True, **more)


# C6: rows


def test_c6_rows_replace_those_of_the_base():
    found, base = loaded("untied_rows"), flat(model("untied").params)
    rows = load_file(MORE / "untied_rows" / "adapter_model.safetensors")[
        "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"
    ]
    table = np.array(base["model/embed_tokens/embedding"])
    table[[1, 5]] = rows
    np.testing.assert_array_equal(flat(found.params)["model/embed_tokens/embedding"], table)
    assert found.token_rows == {"model/embed_tokens/embedding": (1, 5), "lm_head/kernel": (2,)}
    assert found.train == ("lm_head/kernel", "model/embed_tokens/embedding")


def test_c6_rows_that_may_be_meant_for_two_layers_are_told(tmp_path):
    m = model("untied")
    leaves = flat(m.params)
    leaves["lm_head/kernel"] = leaves["model/embed_tokens/embedding"].T
    folder = copied("untied_rows", tmp_path)
    respelt(folder, lambda found: {key: t for key, t in found.items() if "lm_head" not in key})
    reset(folder, trainable_token_indices=[1, 5])
    with pytest.warns(
        UserWarning,
        match="lm_head.weight equals model.embed_tokens.weight; if torch ties the two, PEFT means the rows of both",
    ):
        peft.load(folder, lora_jax.tree.nested(leaves), m.layout, names_of=m.names_of)


@pytest.mark.parametrize("name", ["untied_rows", "tied_rows"])
def test_c6_rows_are_written_as_rows(name, tmp_path):
    again = tensors(saved(tmp_path, name, loaded(name)))
    for key, tensor in load_file(MORE / name / "adapter_model.safetensors").items():
        np.testing.assert_array_equal(again[key.removeprefix("base_model.model.")], tensor, err_msg=key)
    told = config(tmp_path)["trainable_token_indices"]
    assert told == {"embed_tokens": [1, 5], "lm_head": [1, 5] if name == "tied_rows" else [2]}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"trainable_token_indices": [1, 99]},
            "model.embed_tokens, which has 37|which trainable_token_indices does not name",
        ),
        (
            {"trainable_token_indices": {"embed_tokens": [1, 99], "lm_head": [2]}},
            "names row 99 of model.embed_tokens, which has 37",
        ),
        (
            {"trainable_token_indices": {"embed_tokens": [1], "lm_head": [2]}},
            r"the rows of model.embed_tokens are \[2, 16\], expected \[1, 16\]",
        ),
        (
            {"trainable_token_indices": {"embed_tokens": [1, 5]}},
            "lm_head has rows of its own, which trainable_token_indices does not name",
        ),
        ({"trainable_token_indices": None}, "model.embed_tokens has rows of its own"),
        ({"trainable_token_indices": {"embed_tokens": [5, 5], "lm_head": [2]}}, "expected a list of different rows"),
        ({"trainable_token_indices": {"embed_tokens": [-1, 5], "lm_head": [2]}}, "expected a list of different rows"),
        ({"trainable_token_indices": {"embed_tokens": [1, 5], "lm_head": [2], "wte": [3]}}, "missing the rows of wte"),
    ],
)
def test_c6_rows_that_do_not_fit_are_told(values, message, tmp_path):
    folder = copied("untied_rows", tmp_path)
    reset(folder, **values)
    with pytest.raises(LoRAError, match=message):
        loaded("untied_rows", folder)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"base_params": None}, "pass base_params= with that leaf"),
        ({"token_rows": "nosuch"}, "token_rows: 'nosuch' selects no table; closest"),
        ({"token_rows": "q_proj"}, "is not one table of torch"),
        ({"base_params": "same"}, "no row of .* differs from the base's"),
    ],
)
def test_c6_rows_that_cannot_be_written_are_refused(more, message, tmp_path):
    found = loaded("untied_rows")
    more = {key: found.params if value == "same" else value for key, value in more.items()}
    with pytest.raises(LoRAError, match=message):
        saved(tmp_path / "folder", "untied_rows", found, **more)


# C6: parameters


@pytest.mark.parametrize("name", ["moe_parameters", "moe_one", "flagged_parameters"])
def test_c6_parameters_are_written_as_peft_wrote_them(name, tmp_path):
    folder = saved(tmp_path, name, loaded(name))
    again, expected = tensors(folder), load_file(MORE / name / "adapter_model.safetensors")
    assert {f"base_model.model.{key}" for key in again} == expected.keys()
    for key, tensor in expected.items():
        np.testing.assert_array_equal(again[key.removeprefix("base_model.model.")], tensor, err_msg=key)
    wanted = config(MORE / name)["target_parameters"]
    assert sorted(config(folder)["target_parameters"]) == sorted(path.rpartition(".")[2] for path in wanted)


def test_c6_experts_that_lie_the_other_way_round_are_told_when_written(tmp_path):
    name = "unflagged_parameters"
    parameters = peft.Parameters(inputs_first=True)
    again = tensors(saved(tmp_path, name, loaded(name), parameters=parameters))
    for key, tensor in load_file(MORE / name / "adapter_model.safetensors").items():
        np.testing.assert_array_equal(again[key.removeprefix("base_model.model.")], tensor, err_msg=key)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"target_parameters": ["experts.gate_up_proj", "gate.w"]},
            "experts has 2 adapters, and target_parameters names experts.gate_up_proj",
        ),
        ({"target_parameters": ["experts.gate_up_proj", "experts.down_proj"]}, "unexpected gate, which is no layer"),
        ({"rank_pattern": {}}, r"experts.gate_up_proj.lora_A.weight is \[12, 6\], expected \[6, 6\]"),
        (
            {"target_parameters": [*("experts.gate_up_proj", "experts.down_proj", "gate.w"), "up"]},
            "target_parameters names 'up', and names_of=",
        ),
    ],
)
def test_c6_parameters_that_do_not_fit_are_told(values, message, tmp_path):
    folder = copied("moe_parameters", tmp_path)
    reset(folder, **values)
    with pytest.raises(LoRAError, match=message):
        loaded("moe_parameters", folder)


def test_c6_the_order_of_a_class_s_parameters_is_asked_for(tmp_path):
    m, order = model("moe"), {"experts/gate_up_proj": "experts.up[{}]", "experts/down_proj": "experts.down[{}]"}
    found = loaded("flagged_parameters")

    def names_of(path):
        return order.get(path, path.replace("/", "."))

    with pytest.raises(LoRAError, match="experts.up is one of 2 parameters of its module.*Parameters"):
        peft.save(tmp_path / "folder", found.params, found.config, m.layout, names_of=names_of, mask=None)
    parameters = peft.Parameters(order=("up", "down"))
    peft.save(
        tmp_path / "folder", found.params, found.config, m.layout, names_of=names_of, mask=None, parameters=parameters
    )
    again = peft.load(tmp_path / "folder", m.params, m.layout, names_of=names_of, parameters=parameters)
    assert_same(again.params, found.params)


class Square(nn.Module):
    @nn.compact
    def __call__(self, x):
        return jnp.einsum("bd,edf->bef", x, self.param("up", nn.initializers.normal(), (3, 6, 6)))


class Holder(nn.Module):
    @nn.compact
    def __call__(self, x):
        return Square(name="experts")(x)


def square(**fields):
    x, config_ = jnp.ones((2, 6)), LoRAConfig(**{"rank": 2, "targets": "up", "roles": {"up": "sio"}, **fields})
    params = randomised(LoRA(Holder(), config_).init(jax.random.key(0), x)["params"], seed=3)
    return params, config_, lora_jax.layout(LoRA(Holder(), config_), x)


def up(path):
    return {"experts/up": "experts.up[{}]"}.get(path, path.replace("/", "."))


@pytest.mark.parametrize("inputs_first", [True, False])
def test_c6_square_experts_ask_which_way_they_lie(inputs_first, tmp_path):
    params, config_, layout = square()
    with pytest.raises(LoRAError, match="experts.up holds square matrices, 6 by 6.*inputs_first"):
        peft.save(tmp_path, params, config_, layout, names_of=up, mask=None)
    told = {"names_of": up, "parameters": peft.Parameters(inputs_first=inputs_first)}
    peft.save(tmp_path, params, config_, layout, mask=None, **told)
    with pytest.raises(LoRAError, match="square matrices"):
        peft.load(tmp_path, strip(params), layout, names_of=up)
    found = peft.load(tmp_path, strip(params), layout, **told).params
    kernels = [
        lora_jax.merge(tree)["experts"]["up"] for tree in (found, params)
    ]  # PEFT has one scale for all, so those of experts are in b
    assert_close(*kernels, 1e-5)
    assert not jnp.allclose(kernels[0], strip(params)["experts"]["up"], atol=1e-2)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dropout": 0.1}, "PEFT has no dropout there"),
        ({"dora": True}, "PEFT has no magnitude"),
        ({"roles": {"up": "oio"}}, "give experts that share a factor their own by"),
    ],
)
def test_c6_what_peft_lacks_for_parameters_is_refused(fields, message, tmp_path):
    params, config_, layout = square(**fields)
    with pytest.raises(LoRAError, match=message):
        peft.save(
            tmp_path / "folder",
            params,
            config_,
            layout,
            names_of=up,
            mask=None,
            parameters=peft.Parameters(inputs_first=False),
        )
    assert not (tmp_path / "folder").exists()


@pytest.mark.parametrize("told", [None, True, {"w": True, "gate_up_proj": False}])
def test_c6_a_matrix_that_lies_inputs_first(told, tmp_path):
    """PEFT takes the last axis of a parameter for its inputs, whatever it is."""
    m, found = model("moe"), loaded("moe_parameters")
    folder = saved(tmp_path / "folder", "moe_parameters", found, parameters=peft.Parameters(inputs_first=told))
    first, expected = tensors(folder), tensors(MORE / "moe_parameters")
    swapped = told is not None
    assert first["gate.lora_A.weight"].shape == ((2, 3) if swapped else (2, 6))
    delta = first["gate.lora_B.weight"] @ first["gate.lora_A.weight"]  # as PEFT adds it to what it takes for [out, in]
    whole = expected["gate.lora_B.weight"] @ expected["gate.lora_A.weight"]
    np.testing.assert_allclose(delta.T if swapped else delta, whole, rtol=1e-6, atol=1e-7)
    assert_same(peft.load(folder, m.params, m.layout, names_of=m.names_of).params, found.params)


def test_c6_the_weight_of_a_layer_may_be_named_as_a_parameter(tmp_path):
    folder = copied("untied_layers", tmp_path)
    target, key = "1.self_attn.q_proj.weight", "model.layers.1.self_attn.q_proj"
    reset(
        folder,
        target_modules=[],
        layers_to_transform=None,
        target_parameters=[target],
        rank_pattern={target: 2},
        r=4,
        lora_alpha=3,
    )
    m = model("untied")
    with pytest.raises(
        LoRAError, match=f"{key} holds square matrices, 16 by 16"
    ):  # a Linear's and a Conv1D's look alike
        loaded("untied_layers", folder)
    for first, side in ((False, "lora_A"), (True, "lora_B")):
        told = peft.Parameters(inputs_first={"q_proj": first})
        got = peft.load(folder, m.params, m.layout, names_of=m.names_of, parameters=told)
        a = flat(got.params)["model/layers/self_attn/q_proj/lora_a"][1]
        found = tensors(folder)[f"{key}.{side}.weight"]
        np.testing.assert_array_equal(a, found if first else found.T)


def test_b4_a_leaf_that_moved_and_would_be_lost_is_told(tmp_path):
    m, found = model("moe"), loaded("moe_one")
    leaves = flat(found.params)
    moved = lora_jax.tree.nested({**leaves, "head/bias": leaves["head/bias"] + 1})
    with pytest.raises(LoRAError, match="head/bias is not the base's and would not be in the folder"):
        saved(tmp_path / "folder", "moe_one", dataclasses.replace(found, params=moved), base_params=m.params)
    saved(tmp_path / "folder", "moe_one", found, base_params=m.params)


# Options


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"alora_invocation_tokens": [1]}, "aLoRA acts only on the tokens"),
        ({"arrow_config": {"top_k": 2}}, "Arrow routes"),
        ({"kasa_config": {"beta": 1e-4}}, "KaSA cuts"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "layers are repeated"),
        ({"megatron_config": {"x": 1}}, "Megatron"),
        ({"monteclora_config": {"x": 1}}, "MonteCLoRA"),
        ({"use_bdlora": {"nblocks": 2}}, "blocks"),
        ({"use_qalora": True}, "QA-LoRA"),
        *(
            ({"init_lora_weights": init}, "path_initial_model")
            for init in ("pissa", "pissa_niter_4", "olora", "corda", "lora_ga")
        ),
        ({"init_lora_weights": "loftq"}, "base that it quantised anew"),
        ({"init_lora_weights": "new"}, "'new'"),
    ],
)
def test_c6_every_option_that_is_refused_says_why(values, message, tmp_path):
    folder = copied("untied_layers", tmp_path)
    reset(folder, **values)
    with pytest.raises(LoRAError, match=f"not supported: {next(iter(values))}.*{message}"):
        loaded("untied_layers", folder)


def test_c6_what_only_the_backward_pass_asks_is_left_aside(tmp_path):
    folder = copied("untied_layers", tmp_path)
    key = "base_model.model.model.layers.1.self_attn.q_proj.lora_velora_embed"
    respelt(folder, lambda found: {**found, key: np.ones(4, np.float32)})
    reset(folder, velora_config={"num_groups": 4})
    assert_same(loaded("untied_layers", folder).params, loaded("untied_layers").params)


# B2, B12: what is given


def test_b2_the_folder_above_names_the_one_below(tmp_path):
    shutil.copytree(MORE / "moe_one", tmp_path / "best")
    with pytest.raises(
        LoRAError, match="no adapter_config.json in it; the folder 'best' below it has one: load '.*best'"
    ):
        loaded("moe_one", tmp_path)
    shutil.copytree(MORE / "moe_one", tmp_path / "last")
    with pytest.raises(LoRAError, match="load '.*best', or one of last"):
        loaded("moe_one", tmp_path)


def without_a(leaves):
    return {path: leaf for path, leaf in leaves.items() if path != "q_proj/lora_a"}


def of_value(value):
    return lambda leaves: {path: value if path == "q_proj/bias" else leaf for path, leaf in leaves.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_a, "q_proj/lora_b and no lora_a beside it"),
        (of_value(None), "params has None at q_proj/bias, where an array was expected"),
        (of_value("zeros"), "params has a str at q_proj/bias"),
        (of_value(np.array([None])), "an array of objects at q_proj/bias"),
        (of_value(np.array(["a"])), "an array of strings at q_proj/bias"),
    ],
)
def test_b12_a_tree_that_is_not_whole_is_refused(change, message, tmp_path):
    start, params, config_, layout = tied(("q_proj",))
    with pytest.raises(LoRAError, match=message):
        peft.save(tmp_path / "folder", lora_jax.tree.nested(change(flat(params))), config_, layout, mask=None)
    assert not (tmp_path / "folder").exists()


def test_b12_norms_of_another_base_are_refused(tmp_path):
    """PEFT takes the norms of its own base; ours are kept."""
    _, params, config_, layout = tied(("q_proj",), dora=True)
    params["q_proj"]["kernel"] = 2 * params["q_proj"]["kernel"]
    with pytest.raises(LoRAError, match="peft.save: .*q_proj"):
        peft.save(tmp_path / "folder", params, config_, layout, mask=None)


def test_b12_a_base_that_is_not_whole_is_refused():
    m = model("untied")
    base = {**flat(m.params), "lm_head/kernel": None}
    with pytest.raises(LoRAError, match="base_params has None at lm_head/kernel"):
        peft.load(MORE / "untied_layers", lora_jax.tree.nested(base), m.layout, names_of=m.names_of)


# Names with signs of regular expressions


class Odd(nn.Module):
    """Names that a pattern language reads."""

    @nn.compact
    def __call__(self, x):
        a = nn.Dense(6, name="q+")(x) + nn.Dense(6, name="q.x")(x) + nn.Dense(6, name="qyx")(x)
        return nn.Dense(5, name="he(ad")(a) + nn.Dense(5, name="q")(a)


def odd(targets, **fields):
    x, config_ = jnp.ones((2, 6)), LoRAConfig(rank=2, targets=targets, **fields)
    base = Odd().init(jax.random.key(0), x)["params"]
    params = randomised(adapt(jax.random.key(1), base, LoRA(Odd(), config_), x), seed=3)
    return base, params, config_, lora_jax.layout(Odd(), x)


@pytest.mark.parametrize("target", ["q+", "q.x", "he(ad", "q"])
def test_c6_patterns_mean_the_module_alone_whatever_its_name(target, tmp_path):
    base, params, config_, layout = odd(["re:" + r"q\+|q\.x|qyx|he\(ad|q"], rank_pattern={f"re:{re.escape(target)}": 4})
    peft.save(tmp_path, params, config_, layout, mask=None)
    assert_same(peft.load(tmp_path, base, layout).params, params)


@pytest.mark.parametrize("train", ["he(ad", "q.x"])
def test_c6_a_saved_module_whose_name_peft_would_misread_is_refused(train, tmp_path):
    _, params, config_, layout = odd(["re:qyx"])
    with pytest.raises(LoRAError, match="as a regular expression"):
        peft.save(tmp_path / "folder", params, config_, layout, mask=trainable_mask(params, train=train))
