"""Are adapter folders of real PEFT read as PEFT means them, written as PEFT reads them, and refused where they do not fit?"""

import json
import pathlib
import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict
from safetensors.numpy import save_file

import lora_jax
from lora_jax import LoRA, LoRAConfig, LoRAError, adapt, peft, strip, trainable_mask
from tests.bert_golden import assert_close, assert_same, contents
from tests.cases import flat, randomised
from tests.peft_golden import FOLDERS, GOLDEN, config, model, model_of, outputs, tensors

pytestmark = [
    pytest.mark.usefixtures("quick_compile"),
    pytest.mark.filterwarnings("ignore:.*PEFT would take the first"),  # peft_bert_rslora_patterns; asked below
]
every_folder = pytest.mark.parametrize("name", FOLDERS)


def loaded(name: str, folder: pathlib.Path | None = None) -> peft.Loaded:
    m = model_of(name)
    return peft.load(folder or GOLDEN / name, m.params, m.layout, names_of=m.names_of)


def saved(folder: pathlib.Path, name: str, found: peft.Loaded, **kwargs) -> pathlib.Path:
    m = model_of(name)
    mask = trainable_mask(found.params, train=found.train)
    about = {"base_model": found.base_model, "task_type": found.task_type}
    peft.save(folder, found.params, found.config, m.layout, names_of=m.names_of, mask=mask, **about, **kwargs)
    return folder


def logits(name: str, found: peft.Loaded):
    m = model_of(name)
    return LoRA(m.module, found.config).apply({"params": found.params}, *m.args)


def assert_torch_s(got, name: str) -> None:
    """Within 1e-5 of the largest logit."""
    expected = outputs()[name]
    assert_close(got, expected, 1e-5 * max(1.0, np.abs(expected).max()))


@every_folder
def test_logits_are_torch_s(name):
    assert_torch_s(logits(name, loaded(name)), name)


@every_folder
def test_the_base_stays_as_it_is(name):
    found = loaded(name)
    base, kept = flat(model_of(name).params), set(found.train)
    assert_same(
        {p: leaf for p, leaf in flat(strip(found.params)).items() if p not in kept},
        {p: leaf for p, leaf in base.items() if p not in kept},
    )


@every_folder
def test_the_config_is_the_adapter_s(name):
    """A fresh adapter of the config that was read has the leaves that were read."""
    m, found = model_of(name), loaded(name)
    fresh = jax.eval_shape(lambda: adapt(jax.random.key(0), m.params, LoRA(m.module, found.config), *m.args))
    shapes = {path: leaf.shape for path, leaf in flat(fresh).items()}
    if name != "peft_llama_layer_pattern":  # one layer of a stack is wider than the config can say
        assert {path: leaf.shape for path, leaf in flat(found.params).items()} == shapes


@pytest.mark.parametrize("name", [name for name in FOLDERS if name != "peft_llama_layer_pattern"])
def test_written_again_the_tensors_are_torch_s_bit_for_bit(name, tmp_path):
    again = tensors(saved(tmp_path / "again", name, loaded(name)))
    expected = tensors(GOLDEN / name)
    assert again.keys() == expected.keys()
    for key, tensor in expected.items():
        np.testing.assert_array_equal(again[key], tensor, err_msg=key)


@every_folder
def test_write_read_write_is_byte_identical(name, tmp_path):
    once = saved(tmp_path / "once", name, loaded(name))
    twice = saved(tmp_path / "twice", name, loaded(name, once))
    assert contents(once) == contents(twice)
    assert_torch_s(logits(name, loaded(name, once)), name)


def test_a_config_says_what_peft_s_says(tmp_path):
    got = config(saved(tmp_path / "again", "peft_bert_plain", loaded("peft_bert_plain")))
    expected = config(GOLDEN / "peft_bert_plain") | {
        "modules_to_save": ["classifier"]
    }  # "score" is no module of a BERT
    assert got == {key: expected[key] for key in got}


def test_scales_folded_in_need_rank_and_alpha_only(tmp_path):
    name = "peft_bert_rslora_patterns"
    folder = saved(tmp_path / "folded", name, loaded(name), fold_scaling=True)
    about = config(folder)
    assert (about["r"], about["lora_alpha"]) == (5, 5)
    assert not about["use_rslora"] and not about["rank_pattern"] and not about["alpha_pattern"]
    assert {tensor.shape[0] for key, tensor in tensors(folder).items() if key.endswith("lora_A.weight")} == {5}
    assert_torch_s(logits(name, loaded(name, folder)), name)


def test_patterns_that_peft_would_read_in_another_order_are_told():
    with pytest.warns(UserWarning, match="'key' .2. and 'layer.1.attention.self.key' .7.; the longer is taken"):
        loaded("peft_bert_rslora_patterns")


def copied(name: str, folder: pathlib.Path) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(GOLDEN / name, folder / "spoilt"))


def respelt(folder: pathlib.Path, change) -> None:
    save_file(dict(change(tensors(folder))), folder / "adapter_model.safetensors")


def reset(folder: pathlib.Path, **values) -> None:
    (folder / "adapter_config.json").write_text(json.dumps(config(folder) | values))


QUERY = "base_model.model.bert.encoder.layer.0.attention.self.query"


def test_every_tensor_that_does_not_fit_is_listed(tmp_path):
    folder = copied("peft_bert_plain", tmp_path)

    def spoil(found):
        found = dict(found)
        found[f"{QUERY}.lora_A.weight"] = found[f"{QUERY}.lora_A.weight"].T.copy()
        del found[f"{QUERY}.lora_B.weight"], found["base_model.model.classifier.bias"]
        found["base_model.model.bert.extra.weight"] = np.zeros(3, np.float32)
        return found

    respelt(folder, spoil)
    base = model("bert").params
    before = jax.tree.map(np.array, base)
    for _ in range(2):
        with pytest.raises(LoRAError) as caught:
            loaded("peft_bert_plain", folder)
        for words in (
            "query.lora_A.weight is [12, 4], expected [4, 12]",
            "missing bert.encoder.layer.0.attention.self.query.lora_B.weight",
            "unexpected bert.extra.weight",
            "missing classifier.bias, which modules_to_save names",
        ):
            assert words in str(caught.value)
    assert_same(base, before)


def test_a_file_without_its_head_says_so(tmp_path):
    folder = copied("peft_bert_dora", tmp_path)
    respelt(folder, lambda found: {key: t for key, t in found.items() if "classifier" not in key})
    with pytest.raises(LoRAError, match="missing classifier.*, which modules_to_save names"):
        loaded("peft_bert_dora", folder)


@pytest.mark.parametrize(
    ("name", "other"), [("peft_bert_plain", "peft_net_plain"), ("peft_llama_all_linear", "peft_bert_plain")]
)
def test_an_adapter_of_another_model_is_refused(name, other):
    with pytest.raises(LoRAError, match="does not fit this model.*unexpected"):
        loaded(other, GOLDEN / name)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"peft_type": "IA3"}, "'IA3'; only 'LORA'"),
        ({"target_parameters": ["experts"]}, "target_parameters names 'experts', and names_of= calls no parameter so"),
        ({"trainable_token_indices": [1, 2]}, r"missing the rows that trainable_token_indices=\[1, 2\] names"),
        ({"lora_bias": True}, "missing .*query.lora_B.bias"),
        ({"something_new": 3}, "something_new=3"),
        ({"init_lora_weights": "pissa"}, "changed base.*path_initial_model_for_weight_conversion"),
        ({"lora_alpha": None}, "lora_alpha missing"),
        ({"r": 5}, r"lora_A.weight is \[4, 12\], expected \[5, 12\]"),
        ({"rank_pattern": {"query": 2}}, r"is \[4, 12\], expected \[2, 12\]"),
        ({"use_dora": True}, "missing .*lora_magnitude_vector"),
        ({"target_modules": ["query", "value", "key"]}, "missing the adapter of .*key, which target_modules names"),
        ({"target_modules": ["query", "valeu"]}, "target_modules names 'valeu', .*; closest: .*value"),
        ({"target_modules": []}, "unexpected adapter of .*query, which target_modules does not name"),
        ({"target_modules": ["value"]}, "unexpected adapter of .*layer.0.*query, which target_modules does not name"),
        ({"target_modules": ".*quer"}, "unexpected adapter of .*query"),
        ({"target_modules": "all-linear"}, "missing the adapter of .*key"),
        ({"target_modules": ".*", "layers_to_transform": 1}, "PEFT takes it beside a list of target_modules only"),
        ({"layers_to_transform": 1}, "unexpected adapter of .*layer.0"),
        ({"exclude_modules": ["value"]}, "unexpected adapter of .*value"),
        ({"modules_to_save": ["classifier", "query"]}, "unexpected adapter of .*query"),
        ({"rank_pattern": {"nosuch": 4}}, "rank_pattern names 'nosuch', and no adapter"),
        ({"alpha_pattern": {"nosuch": 4}}, "alpha_pattern names 'nosuch', and no adapter"),
        ({"r": 10**15}, r"expected \[1000000000000000, 12\]"),
    ],
)
def test_options_that_are_not_supported_are_refused_by_name(values, message, tmp_path):
    folder = copied("peft_bert_plain", tmp_path)
    reset(folder, **values)
    with pytest.raises(LoRAError, match=message):
        loaded("peft_bert_plain", folder)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("bias", value) for value in ("weird", 7)),
        *(("use_rslora", value) for value in ("no", 1)),
        ("use_dora", "no"),
        *(("r", value) for value in (2.5, 0, True)),
        *(("lora_alpha", value) for value in ("6", -1, 10**39)),
        ("lora_dropout", 1.5),
        *(("rank_pattern", value) for value in ({"query": 2.5}, [1], {"(": 4}, {"a{99999999999}": 4})),
        *(("alpha_pattern", value) for value in ("x", {"query": 0})),
        *(("target_modules", value) for value in (5, [5], "(")),
        *(("exclude_modules", value) for value in (3, "(")),
        *(("modules_to_save", value) for value in ([3], "classifier", [""])),
        *(("layers_to_transform", value) for value in ("0", 0.5)),
        *(("layers_pattern", value) for value in (3, "(h|layer)")),
        *((field, 3) for field in ("base_model_name_or_path", "task_type")),
    ],
)
def test_a_value_of_another_kind_is_told_with_file_and_field(field, value, tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps(config(GOLDEN / "peft_bert_plain") | {field: value}))
    with pytest.raises(LoRAError, match=rf"adapter_config.json: {field} is .*, expected "):
        loaded("peft_bert_plain", tmp_path)


def test_an_alpha_is_looked_at_where_a_rank_has_its_name(tmp_path):
    about = {"alpha_pattern": {"query": "big"}, "rank_pattern": {"query": 4}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config(GOLDEN / "peft_bert_plain") | about))
    with pytest.raises(LoRAError, match="alpha_pattern is {'query': 'big'}, expected"):
        loaded("peft_bert_plain", tmp_path)


@pytest.mark.parametrize(
    "values",
    [
        {"target_modules": r".*\.(query|value)"},
        {"target_modules": ["query", "value", "key"], "exclude_modules": "bert.*key"},
        {"layers_to_transform": []},
        {"modules_to_save": None},  # PEFT of old did not say so: a SEQ_CLS has its classifier
        {"init_lora_weights": "eva", "eva_config": {"rho": 2.0}, "rank_pattern": {"query": 4}},
        {"eva_config": {"rho": 2.0}},  # init_lora_weights decides
        {"init_lora_weights": "mica"},
        {"init_lora_weights": "Gaussian"},
        {"ensure_weight_tying": True},
    ],
    ids=str,
)
def test_other_ways_to_say_the_same(values, tmp_path):
    folder = copied("peft_bert_plain", tmp_path)
    reset(folder, **values)
    assert_same(loaded("peft_bert_plain", folder).params, loaded("peft_bert_plain").params)


def test_all_linear_may_leave_one_layer_out(tmp_path):
    folder = copied("peft_llama_all_linear", tmp_path)
    reset(folder, target_modules="all-linear")
    assert_same(loaded("peft_llama_all_linear", folder).params, loaded("peft_llama_all_linear").params)
    net = copied("peft_net_plain", tmp_path / "net")
    reset(net, target_modules="all-linear")
    with pytest.raises(LoRAError, match="unexpected adapter of conv"):
        loaded("peft_net_plain", net)


def drop_config(folder):
    (folder / "adapter_config.json").unlink()


def break_config(folder):
    (folder / "adapter_config.json").write_text("{")


def drop_tensors(folder):
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


def cut_tensors(folder):
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-7])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (drop_config, "no adapter_config.json"),
        (break_config, "adapter_config.json cannot be read"),
        (drop_tensors, "no adapter_model.safetensors.*pickle"),
        (cut_tensors, "cannot be read as safetensors"),
    ],
)
def test_a_folder_that_cannot_be_read_says_so(spoil, message, tmp_path):
    folder = copied("peft_bert_plain", tmp_path)
    spoil(folder)
    with pytest.raises(LoRAError, match=message):
        loaded("peft_bert_plain", folder)


def of_integers(found):
    return {key: t.astype(np.int64) for key, t in found.items()}


def of_nan(found):
    return {key: t * np.nan for key, t in found.items()}


def of_large_doubles(found):
    return {key: t.astype(np.float64) * 1e300 for key, t in found.items()}


def with_a_base_kernel(found):
    return {**found, f"{QUERY}.base_layer.weight": np.zeros((12, 12), np.float32)}


def with_a_bias(found):
    return {**found, f"{QUERY}.base_layer.bias": np.zeros(12, np.float32)}


def without_the_head_s_bias(found):
    return {key: t for key, t in found.items() if key != "base_model.model.classifier.bias"}


def without_the_head_s_weight(found):
    return {key: t for key, t in found.items() if key != "base_model.model.classifier.weight"}


@pytest.mark.parametrize(
    ("change", "values", "message"),
    [
        (of_integers, {}, "query.lora_A.weight is of int64, expected floating point"),
        (of_nan, {}, "query.lora_A.weight is not finite"),
        (of_large_doubles, {}, "query.lora_A.weight is not finite"),
        (
            with_a_base_kernel,
            {},
            "unexpected .*query.weight, of the base, which neither modules_to_save nor bias='none'",
        ),
        (with_a_base_kernel, {"bias": "lora_only"}, "unexpected .*query.weight, of the base"),
        (with_a_bias, {}, "unexpected .*query.bias, of the base"),
        (dict, {"modules_to_save": None, "task_type": None}, "unexpected classifier.bias, of the base"),
        (
            without_the_head_s_bias,
            {"modules_to_save": None},
            "missing classifier.bias, of a head that task_type='SEQ_CLS'",
        ),
        (without_the_head_s_weight, {"modules_to_save": None}, "missing classifier.weight, of a head"),
        (without_the_head_s_weight, {"modules_to_save": None, "task_type": None}, "unexpected classifier.bias"),
    ],
)
def test_tensors_that_mean_nothing_here_are_refused(change, values, message, tmp_path):
    folder = copied("peft_bert_plain", tmp_path)
    respelt(folder, change)
    reset(folder, **values)
    with pytest.raises(LoRAError, match=message):
        loaded("peft_bert_plain", folder)


def test_peft_saves_an_embedding_beside_its_adapter(tmp_path):
    """save_embedding_layers="auto": its weight is in the file as soon as target_modules names it."""

    def names_of(path):
        return {"embed": "embed_tokens"}.get(path, path)

    m, folder = model("net"), copied("peft_net_plain", tmp_path)
    weight = np.asarray(m.params["embed"]["embedding"])
    respelt(
        folder,
        lambda found: {
            **{key.replace(".embed.", ".embed_tokens."): t for key, t in found.items()},
            "base_model.model.embed_tokens.base_layer.weight": weight,
        },
    )
    reset(folder, target_modules=["embed_tokens", "conv", "head"])
    found = peft.load(folder, m.params, m.layout, names_of=names_of)
    assert_same(found.params, loaded("peft_net_plain").params)


@pytest.mark.parametrize("name", [None, 3, "layer.{x}", "layer.{0}", "{{}}", "layer.{", "{}.{}.{}.{}.{}"], ids=str)
def test_a_name_that_is_none_is_told(name, tmp_path):
    m, config_, params = adapted("bert", targets=("query",))
    with pytest.raises(LoRAError, match="names_of= gives .*expected"):
        peft.save(tmp_path / "folder", params, config_, m.layout, names_of=lambda path: name, mask=None)
    with pytest.raises(LoRAError, match="names_of="):
        peft.load(GOLDEN / "peft_bert_plain", m.params, m.layout, names_of=lambda path: name)


def test_names_that_wrappers_add_are_tolerated(tmp_path):
    folder = copied("peft_bert_plain", tmp_path)
    respelt(
        folder,
        lambda found: {
            key.replace("base_model.model.", "_orig_mod.").replace("lora_A.", "lora_A.default."): t
            for key, t in found.items()
        },
    )
    assert_same(loaded("peft_bert_plain", folder).params, loaded("peft_bert_plain").params)


def adapted(kind: str, **fields) -> tuple:
    m = model(kind)
    config = LoRAConfig(**{"rank": 2, "alpha": 3, **fields})
    return m, config, randomised(adapt(jax.random.key(0), m.params, LoRA(m.module, config), *m.args), seed=3)


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_a_start_is_written_as_plain_lora_of_twice_the_rank(init, tmp_path):
    m, config_, params = adapted("bert", targets=("query", "dense"), init=init, scaling="alpha/sqrt(r)")
    peft.save(tmp_path / "plain", params, config_, m.layout, mask=None)
    assert config(tmp_path / "plain")["r"] == 4
    found = peft.load(tmp_path / "plain", m.params, m.layout)
    expected = LoRA(m.module, config_).apply({"params": params}, *m.args)
    assert_close(
        LoRA(m.module, found.config).apply({"params": found.params}, *m.args), expected, 1e-5 * np.abs(expected).max()
    )


def test_all_biases_are_saved(tmp_path):
    m, config_, params = adapted("bert", targets=("query", "value"))
    mask = trainable_mask(params, train=("*/bias",))
    changed = {path: leaf + 1 if path.endswith("bias") else leaf for path, leaf in flat(params).items()}
    peft.save(tmp_path / "b", unflatten_dict(changed, sep="/"), config_, m.layout, mask=mask)
    assert config(tmp_path / "b")["bias"] == "all"
    assert_same(flat(peft.load(tmp_path / "b", m.params, m.layout).params), changed)


class OnlyTheHeadHasABias(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, name="head")(nn.Dense(6, use_bias=False, name="body")(x))


def test_the_bias_of_a_head_that_trains_whole_is_the_head_s(tmp_path):
    module, x, config_ = OnlyTheHeadHasABias(), jnp.ones((2, 6)), LoRAConfig(rank=2, targets="body")
    base = module.init(jax.random.key(0), x)["params"]
    params = randomised(adapt(jax.random.key(1), base, LoRA(module, config_), x), seed=3)
    layout = lora_jax.layout(module, x)
    peft.save(tmp_path, params, config_, layout, mask=trainable_mask(params, train="head"))
    about = config(tmp_path)
    assert (about["bias"], about["modules_to_save"]) == ("none", ["head"])
    found = peft.load(tmp_path, base, layout)
    assert_same(flat(found.params), flat(params))
    assert found.train == ("head/bias", "head/kernel")


def without_names(m, config_, params, folder):
    peft.save(folder, params, config_, m.layout, mask=None)


def part_of_a_module(m, config_, params, folder):
    mask = trainable_mask(params, train=("classifier/bias",))
    peft.save(folder, params, config_, m.layout, mask=mask)


def adapted_head(m, config_, params, folder):
    mask = trainable_mask(params, train=("value",))
    peft.save(folder, params, config_, m.layout, mask=mask)


def base_alone(m, config_, params, folder):
    peft.save(folder, m.params, config_, m.layout, mask=None)


def other_layout(m, config_, params, folder):
    peft.save(folder, params, config_, model("net").layout, mask=None)


@pytest.mark.parametrize(
    ("kind", "act", "message"),
    [
        ("llama", without_names, "1 {} for their index"),
        ("bert", part_of_a_module, "PEFT saves whole modules"),
        ("bert", adapted_head, "has an adapter and trains itself"),
        ("bert", base_alone, "hold no adapter"),
        ("bert", other_layout, "of another model"),
    ],
)
def test_what_the_format_has_no_place_for_is_refused_and_nothing_written(kind, act, message, tmp_path):
    m, config_, params = adapted(kind, targets=("query", "value") if kind == "bert" else ("q_proj",))
    with pytest.raises(LoRAError, match=message):
        act(m, config_, params, tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


class Grouped(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Conv(4, (3, 3), feature_group_count=2, name="conv")(x)


class Tied(nn.Module):
    @nn.compact
    def __call__(self, ids):
        embed = nn.Embed(7, 4, name="embed")
        return embed.attend(embed(ids))


class ByHead(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Einsum((2, 4, 3), "bhd,hdk->bhk", use_bias=False, name="mix")(x)


@pytest.mark.parametrize(
    ("module", "x", "message"),
    [
        (Grouped(), jnp.ones((1, 5, 5, 4)), "groups"),
        (Tied(), jnp.ones((1, 3), jnp.int32), "tied"),
        (ByHead(), jnp.ones((1, 2, 4)), "2,. stacked layers"),
    ],
)
def test_layers_that_peft_lacks_are_named(module, x, message, tmp_path):
    config_ = LoRAConfig(rank=2, targets="*")
    params = LoRA(module, config_).init(jax.random.key(0), x)["params"]
    with pytest.raises(LoRAError, match=message):
        peft.save(tmp_path / "folder", params, config_, lora_jax.layout(module, x), mask=None)


class Attention(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.MultiHeadDotProductAttention(num_heads=2, name="attention")(x)
        return nn.Einsum((5, 2, 2), "bthk,dhk->btd", name="out")(x.reshape(*x.shape[:-1], 2, 2))


def test_dense_general_and_einsum_are_matrices_of_their_own(tmp_path):
    x = jax.random.normal(jax.random.key(1), (2, 3, 4))
    config_ = LoRAConfig(rank=2, targets="all-linear", dora=True)
    params = randomised(LoRA(Attention(), config_).init(jax.random.key(0), x)["params"], seed=3)
    layout = lora_jax.layout(Attention(), x)
    peft.save(tmp_path / "folder", params, config_, layout, mask=None)
    found = tensors(tmp_path / "folder")
    assert found["base_model.model.attention.out.lora_A.weight"].shape == (2, 4)
    assert found["base_model.model.out.lora_B.weight"].shape == (
        5,
        2,
    )  # torch's [out, R], though the kernel is [out, in] too
    got, expected = flat(peft.load(tmp_path / "folder", strip(params), layout).params), flat(params)
    norms = {path for path in expected if path.endswith("lora_norm")}  # computed anew, from the kernels
    assert_same({p: got[p] for p in got.keys() - norms}, {p: expected[p] for p in expected.keys() - norms})
    for path in norms:
        np.testing.assert_allclose(got[path], expected[path], rtol=1e-6)


# What a model has beside the layers that could be adapted, and names that end alike.


class EndsAlike(nn.Module):
    """A Dense `dense` at the root and one inside `block`; a container and a norm whose names end as those of layers do."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(6, name="dense")(x)
        x = Inner(name="block")(x)
        return nn.Dense(6, name="score")(nn.LayerNorm(name="zscore")(x))


class Inner(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(6, name="dense")(x) + nn.ConvTranspose(6, (1,), name="odd")(x)


ALIKE, ALIKE_X = EndsAlike(), jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 6)), jnp.float32)


def alike(**fields):
    config_ = LoRAConfig(**{"rank": 2, "alpha": 2, **fields})
    base = ALIKE.init(jax.random.key(0), ALIKE_X)["params"]
    fresh = flat(adapt(jax.random.key(1), base, LoRA(ALIKE, config_), ALIKE_X))
    moved = {path: leaf + 0.3 if path.endswith("lora_b") else leaf for path, leaf in fresh.items()}
    return config_, unflatten_dict(moved, sep="/"), lora_jax.layout(ALIKE, ALIKE_X)


@pytest.mark.parametrize("fields", [{"alpha_pattern": {"re:dense": 16}}, {"rank_pattern": {"re:dense": 4}}], ids=str)
def test_a_pattern_for_one_layer_is_not_one_for_another_that_ends_alike(fields, tmp_path):
    config_, params, layout = alike(targets="dense", **fields)
    peft.save(tmp_path, params, config_, layout, mask=None)
    (patterns,) = [value for key, value in config(tmp_path).items() if key.endswith("_pattern") and value]
    assert list(patterns) == ["^dense"]
    found = peft.load(tmp_path, strip(params), layout)
    assert_same(found.params, params)
    assert_same(
        jax.tree.map(jnp.shape, adapt(jax.random.key(0), strip(params), LoRA(ALIKE, found.config), ALIKE_X)),
        jax.tree.map(jnp.shape, params),
    )


def test_targets_that_no_ending_selects_are_written_as_a_regex(tmp_path):
    config_, params, layout = alike(targets="re:dense")
    peft.save(tmp_path, params, config_, layout, mask=None)
    assert config(tmp_path)["target_modules"] == "dense"
    assert_same(peft.load(tmp_path, strip(params), layout).params, params)


def test_a_head_that_peft_would_confuse_with_another_module_is_refused(tmp_path):
    config_, params, layout = alike(targets="block/dense")
    with pytest.raises(LoRAError, match="'zscore' ends like 'score'"):
        peft.save(tmp_path, params, config_, layout, mask=trainable_mask(params, train="score"))


def test_kernels_of_other_classes_are_left_alone(tmp_path):
    config_, params, layout = alike(targets="block/dense")
    peft.save(tmp_path, params, config_, layout, mask=None)
    assert_same(peft.load(tmp_path, strip(params), layout).params, params)
    with pytest.raises(LoRAError, match="no counterpart in torch"):
        peft.save(tmp_path, params, config_, layout, mask=trainable_mask(params, train="block/odd"))


def test_an_adapter_goes_onto_a_quantised_base(tmp_path):
    m, config_, params = adapted("bert", targets=("query", "value"), dora=True)
    peft.save(tmp_path, params, config_, m.layout, mask=None)
    small = lora_jax.quantised.quantise(m.params, m.layout, excludes="classifier")
    found = peft.load(tmp_path, small, m.layout)
    expected = lora_jax.rebase(small, lora_jax.adapter_of(params))
    assert_close(*(LoRA(m.module, config_).apply({"params": p}, *m.args) for p in (found.params, expected)), 1e-6)


class TwoHeads(nn.Module):
    @nn.compact
    def __call__(self, x):
        return Nested(name="classifier")(nn.Dense(6, name="body")(x))


class Nested(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, name="out_proj")(nn.tanh(nn.Dense(6, name="dense")(x)))


def nested_head(folder, bias="none"):
    """A head of two layers, saved by the name of what contains them, as PEFT does for RoBERTa."""
    x = jnp.ones((2, 6))
    config_ = LoRAConfig(rank=2, targets="body")
    base = TwoHeads().init(jax.random.key(0), x)["params"]
    params = randomised(adapt(jax.random.key(1), base, LoRA(TwoHeads(), config_), x), seed=3)
    layout = lora_jax.layout(TwoHeads(), x)
    peft.save(folder, params, config_, layout, mask=trainable_mask(params, train="classifier"))
    reset(folder, modules_to_save=["classifier"], bias=bias)
    return params, layout


def test_a_part_of_a_head_that_is_missing_is_told(tmp_path):
    params, layout = nested_head(tmp_path)
    assert_same(peft.load(tmp_path, strip(params), layout).params, params)
    respelt(tmp_path, lambda found: {key: t for key, t in found.items() if "out_proj" not in key})
    with pytest.raises(LoRAError, match="missing classifier.out_proj.bias, which modules_to_save names"):
        peft.load(tmp_path, strip(params), layout)


@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_biases_that_are_promised_and_missing_are_told(bias, tmp_path):
    params, layout = nested_head(tmp_path, bias)
    with pytest.raises(LoRAError, match=f"missing body.bias, which bias='{bias}' promises"):
        peft.load(tmp_path, strip(params), layout)


@pytest.mark.parametrize(
    "values", [{"exclude_modules": ["key"]}, {"layers_to_transform": [0, 1], "layers_pattern": "layer"}], ids=str
)
def test_a_missing_adapter_is_told_whatever_else_picks_layers(values, tmp_path):
    folder = copied("peft_bert_plain", tmp_path)
    reset(folder, **values)
    assert_same(loaded("peft_bert_plain", folder).params, loaded("peft_bert_plain").params)
    respelt(folder, lambda found: {key: t for key, t in found.items() if "layer.1.attention.self.value" not in key})
    with pytest.raises(LoRAError, match="missing the adapter of .*layer.1.attention.self.value"):
        loaded("peft_bert_plain", folder)


def test_a_tensor_under_two_names_is_told(tmp_path):
    folder = copied("peft_bert_plain", tmp_path)
    key = f"{QUERY}.lora_A.weight"
    respelt(folder, lambda found: {**found, key.removeprefix("base_model.model."): found[key]})
    with pytest.raises(LoRAError, match="has bert.encoder.layer.0.attention.self.query.lora_A.weight twice"):
        loaded("peft_bert_plain", folder)


def test_the_tensor_s_rank_tells_which_pattern_was_meant(tmp_path):
    """PEFT takes the first pattern that matches: all are of rank 4 here, and the longer pattern's 2 is of no tensor."""
    folder = copied("peft_bert_plain", tmp_path)
    longer = "layer.0.attention.self.query"
    reset(folder, r=8, rank_pattern={".*self.*": 4, longer: 2}, alpha_pattern={".*self.*": 12, longer: 2})
    found = loaded("peft_bert_plain", folder)
    scales = {float(leaf) for path, leaf in flat(found.params).items() if path.endswith("lora_scale")}
    assert scales == {12 / 4}


def test_a_missing_rank_is_that_of_the_tensors(tmp_path):
    folder = copied("peft_bert_plain", tmp_path)
    reset(folder, r=None)
    assert_same(loaded("peft_bert_plain", folder).params, loaded("peft_bert_plain").params)


def switched_off(params):
    return lora_jax.scaled(params, 0.0)


def diverged(params):
    return jax.tree.map(lambda leaf: leaf * jnp.nan, params)


@pytest.mark.parametrize(
    ("change", "message"),
    [(switched_off, "which no alpha gives; fold_scaling=True"), (diverged, "not finite; it diverged")],
)
def test_an_adapter_that_cannot_be_read_back_is_not_written(change, message, tmp_path):
    m, config_, params = adapted("bert", targets=("query",))
    with pytest.raises(LoRAError, match=message):
        peft.save(tmp_path / "folder", change(params), config_, m.layout, mask=None)
    assert not (tmp_path / "folder").exists()


@pytest.mark.parametrize(("train", "said"), [("classifier", "classifier.bias"), ("*/bias", "bert.*bias")])
def test_a_head_or_a_bias_that_diverged_is_not_written(train, said, tmp_path):
    m, config_, params = adapted("bert", targets=("query",))
    mask = trainable_mask(params, train=train)
    odd = {p: leaf * jnp.nan if p.endswith("bias") else leaf for p, leaf in flat(params).items()}
    with pytest.raises(LoRAError, match=f"{said} is not finite; it diverged"):
        peft.save(tmp_path / "folder", unflatten_dict(odd, sep="/"), config_, m.layout, mask=mask)
    assert not (tmp_path / "folder").exists()


def test_dora_is_told_by_the_leaves_whatever_the_config_says(tmp_path):
    m, _, params = adapted("bert", targets=("query",), dora=True)
    peft.save(tmp_path, params, LoRAConfig(rank=2), m.layout, mask=None)
    assert config(tmp_path)["use_dora"]


def test_a_mask_of_another_tree_is_refused(tmp_path):
    m, config_, params = adapted("bert", targets=("query",))
    with pytest.raises(LoRAError, match="not of the tree"):
        peft.save(tmp_path / "folder", params, config_, m.layout, mask={"head": {"kernel": True}})


def test_the_model_itself_needs_a_name(tmp_path):
    base, x = nn.Dense(4), jnp.ones((1, 3))
    config_ = LoRAConfig(rank=2, targets="*")
    params = LoRA(base, config_).init(jax.random.key(0), x)["params"]
    layout = lora_jax.layout(base, x)
    with pytest.raises(LoRAError, match="the layer is the model itself"):
        peft.save(tmp_path, params, config_, layout, mask=None)
    peft.save(tmp_path, params, config_, layout, mask=None, names_of=lambda path: path or "linear")
    assert_same(peft.load(tmp_path, strip(params), layout, names_of=lambda path: path or "linear").params, params)
