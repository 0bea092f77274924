"""What config.json says in several places, in old words or for training alone: read as transformers reads it, or refused by name."""

import dataclasses
import json

import jax.numpy as jnp
import pytest

from lora_jax.errors import ModelError
from lora_jax.models import from_pretrained
from lora_jax.models.causal_config import CausalLMConfig
from lora_jax.models.causal_values import config_of, values_of

SIZES = {
    "vocab_size": 8, "hidden_size": 8, "intermediate_size": 6, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
    "max_position_embeddings": 64,
}  # fmt: skip
TANH = "gelu_pytorch_tanh"


def config(kind: str = "llama", **values) -> CausalLMConfig:
    return config_of("config.json", {"model_type": kind, **SIZES, **values})


@pytest.mark.parametrize(
    ("kind", "values", "act"),
    [
        ("llama", {"hidden_act": "gelu", "hidden_activation": "relu"}, "gelu"),  # Gemma's word means nothing elsewhere
        ("gemma", {"hidden_act": "gelu", "hidden_activation": None}, TANH),  # as google/gemma-2b says it
        ("gemma", {"hidden_act": "gelu", "hidden_activation": TANH}, TANH),
        ("gemma", {"hidden_act": "relu"}, "relu"),
        ("gemma", {}, TANH),
        ("gemma2", {"hidden_act": "relu"}, TANH),
        ("gemma2", {"hidden_act": "relu", "hidden_activation": "gelu"}, "gelu"),
        ("gemma3_text", {"hidden_act": "relu"}, TANH),
    ],
    ids=str,
)
def test_the_activation_is_the_one_that_transformers_takes(kind, values, act):
    assert config(kind, **values).hidden_act == act


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


@pytest.mark.parametrize(
    ("kind", "values", "part"),
    [
        ("gemma", {"hidden_act": TANH, "hidden_activation": "relu"}, "hidden_activation 'relu'; leave one"),
        ("llama", {"attention_dropout": 0.1}, "attention_dropout is 0.1; decoders here have none"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5; there is code for"),
        ("llama", {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor is 0.5"),
        ("llama", {"rope_scaling": {"factor": 4.0}}, "rope_scaling has factor and no rope_type"),
        ("llama", {"rope_scaling": {"type": "linear", **LLAMA3}}, "rope_type of the positions is said twice, 'linear' and 'llama3'"),
        ("llama", {"rope_theta": 5.0, "rope_parameters": {"rope_theta": 7.0}}, "rope_theta of the positions is said twice, 7.0 and 5.0"),
        ("llama", {"rope_theta": 5.0, "rope_scaling": {"rope_theta": 7.0, "rope_type": "default"}}, "rope_theta of the positions"),
        ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": {"factor": 4.0}}, "factor of the positions is said twice"),
        (
            "llama",
            {"rope_scaling": {**LLAMA3, "original_max_position_embeddings": 32}, "original_max_position_embeddings": 16},
            "original_max_position_embeddings of the positions is said twice, 32 and 16",
        ),
        ("gemma3_text", {"rope_parameters": {"rope_theta": 7.0}}, "gemma3_text has some for 'full_attention' and for"),
        ("llama", {"rope_parameters": {"full_attention": {"rope_theta": 7.0}}}, "and other families one for all"),
        ("gemma3_text", {"rope_parameters": {"full_attention": 3}}, "rope_parameters has 3; expected an object"),
        ("gemma3_text", {"rope_local_base_freq": 9.0, "rope_parameters": {"sliding_attention": {"rope_theta": 7.0}}}, "said twice, 7.0 and 9.0"),
    ],
    ids=str,
)  # fmt: skip
def test_what_contradicts_itself_or_has_no_code(kind, values, part):
    with pytest.raises(ModelError, match=part):
        config(kind, **values)


def test_what_is_said_twice_alike_or_in_one_place_is_read():
    assert config(rope_theta=7.0, rope_parameters={"rope_theta": 7.0, "rope_type": "default"}).rope_theta == 7.0
    assert config(rope_scaling={"rope_theta": 7.0, "rope_type": "default"}).rope_theta == 7.0
    assert (
        config(rope_scaling=LLAMA3, original_max_position_embeddings=16).rope_scaling.original_max_position_embeddings
        == 16
    )
    assert config(attention_dropout=0.0, partial_rotary_factor=1.0, quantization_config=None) == config()
    assert config("gemma3_text", rope_parameters={"sliding_attention": {"rope_theta": 7.0}}).rope_local_base_freq == 7.0


def test_a_head_width_of_qwen2s_own():
    found = config("qwen2", head_dim=10)
    assert found.head_size == 10 and config_of("config.json", values_of(found)) == found


def test_a_gemma_of_exact_gelu_has_no_word():
    with pytest.raises(ModelError, match="hidden_act 'gelu', for which GemmaForCausalLM of transformers has no field"):
        values_of(dataclasses.replace(config("gemma"), hidden_act="gelu"))


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_quantised_weights_are_refused_before_they_are_read(tmp_path, kind):
    values = {"model_type": kind, **SIZES, "quantization_config": {"quant_method": "gptq", "bits": 4}}
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ModelError, match=r"the weights are quantised \(gptq\); take the model that they were made of"):
        from_pretrained(tmp_path, dtype=jnp.float32)
