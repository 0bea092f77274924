"""A model in one line, from a folder or a .gguf, and an adapter by the model's own names."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lora_jax
from lora_jax import LoRA, LoRAConfig
from lora_jax.errors import LoRAError, ModelError, PeftError
from lora_jax.models import bert, from_pretrained, save_pretrained
from lora_jax.models.causal_lm import CausalLM, CausalLMConfig
from tests.bert_golden import GOLDEN
from tests.cases import flat, randomised

pytestmark = pytest.mark.usefixtures("quick_compile")
SIZES = CausalLMConfig(37, 24, 20, 3, 6, 2, 32, head_dim=6)
FAMILIES = {
    "llama": SIZES,
    "mistral": dataclasses.replace(SIZES, model_type="mistral", sliding_window=5),
    "qwen2": dataclasses.replace(SIZES, model_type="qwen2", head_dim=None, tie_word_embeddings=False),
    "qwen3": dataclasses.replace(SIZES, model_type="qwen3"),
    "gemma2": dataclasses.replace(
        SIZES, model_type="gemma2", hidden_act="gelu_pytorch_tanh", sliding_window=5, attn_logit_softcapping=2.0,
        final_logit_softcapping=3.0, layer_types=("sliding_attention", "full_attention", "sliding_attention"),
    ),
    "gemma3_text": dataclasses.replace(
        SIZES, model_type="gemma3_text", hidden_act="gelu_pytorch_tanh", sliding_window=5, rope_local_base_freq=20.0,
        layer_types=("sliding_attention", "sliding_attention", "full_attention"), query_pre_attn_scalar=7.0,
    ),
}  # fmt: skip
every_family = pytest.mark.parametrize("family", FAMILIES)
IDS = jnp.asarray(np.random.default_rng(0).integers(37, size=(2, 13)), jnp.int32)


def random_of(model) -> dict:
    shapes = jax.eval_shape(model.init, jax.random.key(0), *model.example())["params"]
    random = np.random.default_rng(1)
    leaves = flat(shapes)
    drawn = {path: 0.3 * random.normal(size=leaf.shape) + path.endswith("scale") for path, leaf in leaves.items()}
    return lora_jax.tree.nested({path: jnp.asarray(value, jnp.float32) for path, value in drawn.items()})


def decoder(family: str):
    model = CausalLM(FAMILIES[family])
    return model, random_of(model)


@every_family
def test_what_is_written_is_read_again(tmp_path, family):
    model, params = decoder(family)
    save_pretrained(tmp_path, model, params)
    again, back, words = from_pretrained(tmp_path)
    assert again == model and words is None
    jax.tree.map(np.testing.assert_array_equal, back, params)


@every_family
def test_with_a_cache_past_the_window_the_states_are_the_same(family):
    model, params = decoder(family)
    whole = model.apply({"params": params}, IDS, method="hidden")
    cache, states = lora_jax.models.causal_lm.empty_cache(model.config, 2, 16), []
    for start, stop in ((0, 7), (7, 8), (8, 11), (11, 13)):
        places = jnp.broadcast_to(jnp.arange(start, stop), (2, stop - start))
        piece, cache = model.apply({"params": params}, IDS[:, start:stop], places, cache, method="extend")
        states.append(piece)
    np.testing.assert_allclose(jnp.concatenate(states, axis=1), whole, atol=2e-5)


@every_family
def test_every_field_of_a_family_counts(family):
    """A config that differs in one choice computes something else: nothing that config.json says is left out."""
    model, params = decoder(family)
    before = model.apply({"params": params}, IDS)
    changes = {
        "rope_theta": 300.0, "rms_norm_eps": 0.5, "sliding_window": 3, "attn_logit_softcapping": 0.7, "final_logit_softcapping": 0.9,
        "rope_local_base_freq": 90.0, "query_pre_attn_scalar": 90.0, "hidden_act": "relu",
    }  # fmt: skip
    for name, value in changes.items():
        if getattr(model.config, name) is None:
            continue
        other = CausalLM(dataclasses.replace(model.config, **{name: value}))
        assert np.abs(other.apply({"params": params}, IDS) - before).max() > 1e-3, name


@every_family
def test_packed_documents_do_not_see_each_other(family):
    model, params = decoder(family)
    segments = jnp.asarray([[1] * 6 + [2] * 7] * 2)
    packed = model.apply({"params": params}, IDS, segments)
    np.testing.assert_allclose(packed[:, 6:], model.apply({"params": params}, IDS[:, 6:]), atol=5e-5)


@every_family
@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_attention_of_jax_and_ours_are_one(family, backend, monkeypatch):
    model, params = decoder(family)
    segments = jnp.asarray([[1] * 6 + [2] * 7] * 2)
    expected = [model.apply({"params": params}, IDS, *more) for more in ((), (segments,))]
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    got = [model.apply({"params": params}, IDS, *more) for more in ((), (segments,))]
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=5e-5)


@every_family
def test_adapters_go_to_peft_and_back_by_the_models_own_names(tmp_path, family):
    model, base = decoder(family)
    wrapped = LoRA(model, LoRAConfig(rank=2, targets="*_proj"))
    params = randomised(lora_jax.adapt(jax.random.key(0), base, wrapped, IDS), seed=0)
    lora_jax.peft.save(tmp_path, params, wrapped.config, wrapped, mask=None)
    back, config = lora_jax.peft.load(tmp_path, base, model)
    assert config.rank == 2
    np.testing.assert_allclose(
        LoRA(model, config).apply({"params": back}, IDS), wrapped.apply({"params": params}, IDS), atol=1e-5
    )
    assert np.abs(wrapped.apply({"params": params}, IDS) - model.apply({"params": base}, IDS)).max() > 1e-2
    merged = lora_jax.merge(params)
    np.testing.assert_allclose(model.apply({"params": merged}, IDS), wrapped.apply({"params": params}, IDS), atol=2e-4)


def test_a_model_that_knows_no_names_is_told_what_to_pass(tmp_path):
    import flax.linen as nn

    with pytest.raises(PeftError, match="Dense has no method example and no method torch_module"):
        lora_jax.peft.load(tmp_path, {"kernel": jnp.ones((2, 2))}, nn.Dense(2))


@pytest.mark.parametrize("name", ["bert_odd", "bert_odd_mlm"])
def test_encoders_by_the_same_line(tmp_path, name):
    model, params, words = from_pretrained(GOLDEN / name)
    save_pretrained(tmp_path, model, params, words)
    again, back, _ = from_pretrained(tmp_path)
    assert again == model
    jax.tree.map(np.testing.assert_array_equal, back, params)


def test_a_new_head_of_so_many_labels():
    model, params, _ = from_pretrained(GOLDEN / "bert_odd", num_labels=5, key=jax.random.key(0))
    assert isinstance(model, bert.BertForSequenceClassification)
    assert model.apply({"params": params}, jnp.ones((1, 4), jnp.int32)).shape == (1, 5)


def changed(folder: pathlib.Path, **values) -> pathlib.Path:
    model, params = decoder("llama")
    save_pretrained(folder, model, params)
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
    return folder


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"model_type": "mamba"}, r"'mamba'; there is code for decoders \(llama, .* and encoders \(bert, "),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 2.0}}, "the type is 'longrope'; there is code for linear, llama3, yarn"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 2.0}}, "llama3 needs low_freq_factor"),
        ({"rope_scaling": {"rope_type": "linear"}}, "rope_scaling: linear needs factor"),
        ({"rope_scaling": {"type": "yarn", "factor": None}}, "rope_scaling: yarn needs factor"),
        ({"model_type": None}, "config.json: model_type is missing; write the family's, as llama, mistral"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "mscale": 1.0}}, "rope_scaling has mscale"),
        ({"hidden_act": "swiglu"}, "hidden_act is 'swiglu'; there is code for silu"),
        ({"num_hidden_layers": 2}, "the weights do not fit config.json: unexpected model.layers.2"),
        ({"attention_bias": True}, "missing model.layers.0.self_attn.k_proj.bias"),
    ],
)  # fmt: skip
def test_what_there_is_no_code_for_is_refused_by_name(tmp_path, values, part):
    with pytest.raises(ModelError, match=part):
        from_pretrained(changed(tmp_path, **values))


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"dtype": "int8"}, "dtype is 'int8'; it must be float32 or bfloat16"),
        ({"param_dtype": "nonsense"}, "param_dtype is 'nonsense'"),
        ({"num_labels": 3}, "a decoder has no classifier"),
    ],
)
def test_options_that_cannot_be(tmp_path, options, part, as_users_run_it):
    with pytest.raises(ModelError, match=part):
        from_pretrained(changed(tmp_path), **options)


def test_a_config_that_transformers_has_no_word_for_is_not_written(tmp_path):
    model = CausalLM(dataclasses.replace(SIZES, sliding_window=4))
    with pytest.raises(LoRAError, match="sliding_window 4, for which LlamaForCausalLM of transformers has no field"):
        save_pretrained(tmp_path, model, random_of(model))


def test_bfloat16_is_kept_and_float32_is_asked_for(tmp_path):
    model, params = decoder("llama")
    save_pretrained(tmp_path, model, params, dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in flat(from_pretrained(tmp_path).params).values()} == {jnp.dtype(jnp.bfloat16)}
    wide = from_pretrained(tmp_path, param_dtype=jnp.float32)
    assert {leaf.dtype for leaf in flat(wide.params).values()} == {jnp.dtype(jnp.float32)}
    narrow = from_pretrained(tmp_path, dtype=jnp.bfloat16)
    logits = narrow.model.apply({"params": narrow.params}, IDS)
    assert logits.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("folder", "options", "part"),
    [
        (None, {}, "None is no path"),
        ("", {}, "the folder's name is empty; write '.'"),
        ("out", {"words": 3}, "words are 3; expected the Tokenizer"),
        ("out", {"dtype": "x"}, "save_pretrained: dtype is 'x'; it must be float32"),
        ("out", {"dtype": jnp.float8_e4m3fn}, "save_pretrained: dtype is .*float8_e4m3fn"),
    ],
    ids=str,
)
def test_what_cannot_be_saved_so(tmp_path, monkeypatch, folder, options, part, as_users_run_it):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=part):
        save_pretrained(folder, *decoder("llama"), **options)
    assert not list(tmp_path.iterdir())


def test_a_file_in_a_folders_place(tmp_path):
    with pytest.raises(ModelError, match=r"config.json is a file; name the folder that it lies in"):
        from_pretrained(changed(tmp_path) / "config.json")


def test_weights_in_8_bits_are_called_so(tmp_path):
    import ml_dtypes
    from safetensors.numpy import save

    changed(tmp_path)
    content = {"model.norm.weight": np.ones(24, ml_dtypes.float8_e4m3fn)}
    (tmp_path / "model.safetensors").write_bytes(save(content))
    with pytest.raises(ModelError, match=r"numbers of another type .*float8_e4m3fn.*16 or 32 bits"):
        from_pretrained(tmp_path)


def test_what_an_encoder_has_not(as_users_run_it):
    with pytest.raises(ModelError, match="remat is True, and an encoder computes no layer again"):
        from_pretrained(GOLDEN / "bert_odd", remat=True)
    with pytest.raises(ModelError, match="num_labels is 2, key is 0; a new head takes 1 label or more and a key"):
        from_pretrained(GOLDEN / "bert_odd", num_labels=2, key=0)


# A tokenizer beside the weights


def worded(folder: pathlib.Path, size: int = 37) -> pathlib.Path:
    """A folder with a word for each of `size` tokens, the first two special."""
    tokenizers = pytest.importorskip("tokenizers")
    changed(folder)
    words = {"<s>": 0, "</s>": 1, **{f"w{i}": i for i in range(2, size)}}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w2"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens(["<s>", "</s>"])
    made.save(str(folder / "tokenizer.json"))
    said = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    return folder


def added(folder: pathlib.Path, special: bool = True, **said) -> pathlib.Path:
    """The same with a token that the model has no row for."""
    file = folder / "tokenizer_config.json"
    token = {"37": {"content": "<image>", "special": special}}
    file.write_text(json.dumps({**json.loads(file.read_text()), "added_tokens_decoder": token, **said}))
    return folder


def test_a_special_token_beyond_the_model_is_refused_where_a_text_has_it(tmp_path):
    assert from_pretrained(worded(tmp_path)).tokenizer.limit is None
    _, _, words = from_pretrained(added(tmp_path))
    assert words.limit == 37 and words.vocab_size == 38 and words.encode("w36 </s> w3") == [36, 1, 3]
    with pytest.raises(
        ModelError, match="the text has '<image>', number 37, and the model has 37 tokens; leave it out"
    ):
        words.encode("w3 <image>")


@pytest.mark.parametrize("said", [{"pad_token": "<image>"}, {"special": False}], ids=str)
def test_a_token_beyond_the_model_that_is_used_is_of_another_vocabulary(tmp_path, said):
    with pytest.raises(ModelError, match="of another vocabulary: it has ids up to 37, and the model 37 tokens"):
        from_pretrained(added(worded(tmp_path), **said))


def test_words_are_not_saved_among_files_of_another_tokenizer(tmp_path):
    model, params, words = from_pretrained(worded(tmp_path / "one"))
    save_pretrained(tmp_path / "two", model, params, words)
    save_pretrained(tmp_path / "two", model, params, words)  # its own files are written anew
    (tmp_path / "two" / "chat_template.jinja").write_text("of another model")
    before = {path.name: path.read_bytes() for path in (tmp_path / "two").iterdir()}
    with pytest.raises(ModelError, match=r"two has chat_template.jinja of another tokenizer, .* name another folder"):
        save_pretrained(tmp_path / "two", model, params, words)
    assert {path.name: path.read_bytes() for path in (tmp_path / "two").iterdir()} == before
