"""What a decoder's config.json says -> CausalLMConfig, and back."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from lora_jax.errors import ModelError
from lora_jax.files import require_fields
from lora_jax.models import causal_positions
from lora_jax.models.causal_config import FAMILIES, FULL, SLIDING, CausalLMConfig

SIZES = tuple(field.name for field in dataclasses.fields(CausalLMConfig) if field.type is int)
COMMON = (*SIZES, "rms_norm_eps", "rope_theta", "tie_word_embeddings", "rope_scaling", "hidden_act")
WINDOWS = ("sliding_window", "layer_types")
# What a family's config.json says beside the common fields; transformers does not read others, so they are not read here.
OWN = {
    "llama": ("head_dim", "attention_bias", "mlp_bias"),
    "mistral": ("head_dim", "sliding_window"),
    "qwen2": ("head_dim", *WINDOWS),
    "qwen3": ("head_dim", "attention_bias", *WINDOWS),
    "gemma": ("head_dim", "attention_bias"),
    "gemma2": (
        *("head_dim", "attention_bias", "query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping"),
        *WINDOWS,
    ),
    "gemma3_text": (
        *("head_dim", "attention_bias", "query_pre_attn_scalar", "final_logit_softcapping", "rope_local_base_freq"),
        *WINDOWS,
    ),
}
_OF_GEMMA = {"head_dim": 256, "tie_word_embeddings": True, "hidden_act": "gelu_pytorch_tanh"}
# transformers', where the file is silent.
SILENT = {
    "mistral": {"sliding_window": 4096},
    "qwen2": {"sliding_window": 4096},
    "qwen3": {"head_dim": 128, "sliding_window": 4096},
    "gemma": _OF_GEMMA,
    "gemma2": _OF_GEMMA
    | {
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    },
    "gemma3_text": _OF_GEMMA
    | {
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
    },
}
TYPES = {
    **{field.name: field.type for field in dataclasses.fields(CausalLMConfig)},
    **{"num_key_value_heads": int | None, "layer_types": list[str] | None, "hidden_act": str | None},
    **{"rope_parameters": dict | None, "rope_scaling": dict | None, "hidden_activation": str | None},
    **{"use_sliding_window": bool | None, "max_window_layers": int | None, "sliding_window_pattern": int | None},
    **{"use_bidirectional_attention": bool | None, "attention_dropout": float | None},
    **{"partial_rotary_factor": float | None, "original_max_position_embeddings": int | None},
}


def config_of(where: Any, values: Mapping[str, Any]) -> CausalLMConfig:
    """The config that `values`, read from `where`, stand for.

    Raises:
      ModelError: for a family that is not there, sizes that are missing or cannot be, or what there is no code for.

    >>> sizes = {"vocab_size": 8, "hidden_size": 4, "intermediate_size": 6, "num_hidden_layers": 1, "num_attention_heads": 2}
    >>> config_of("config.json", {"model_type": "qwen2", **sizes, "max_position_embeddings": 9}).has_bias("k_proj")
    True
    """
    kind = values.get("model_type")
    if kind not in FAMILIES:
        raise ModelError(f"{where}: the architecture is {kind!r}; there is code for {', '.join(FAMILIES)}.")
    require_fields(values, str(where), TYPES)
    said = {**SILENT.get(kind, {}), **_given(values)}
    _require_plain(where, said)
    said["hidden_act"] = _activation(where, kind, said)
    said.update(causal_positions.fields(where, kind, values))
    said.update(_windows(kind, said))
    said["num_key_value_heads"] = said.get("num_key_value_heads") or said.get("num_attention_heads")
    missing = [name for name in SIZES if said.get(name) is None]
    if missing:
        raise ModelError(f"{where}: {', '.join(sorted(missing))} missing; a decoder's config.json gives its sizes.")
    defaults = {"tie_word_embeddings": False, "rms_norm_eps": 1e-6}
    known = {name: said[name] for name in (*COMMON, *OWN[kind]) if name in said}
    try:
        return _shortest(CausalLMConfig(model_type=kind, **{**defaults, **known}))
    except ModelError as error:
        raise ModelError(f"{where}: {error}") from error


def _shortest(config: CausalLMConfig) -> CausalLMConfig:
    """None where a field says what None stands for: configs that mean the same are equal."""
    found = dataclasses.replace(config, query_pre_attn_scalar=_unless(config.query_pre_attn_scalar, config.head_size))
    if config.hidden_size % config.num_attention_heads:
        return found
    return dataclasses.replace(
        found, head_dim=_unless(config.head_dim, config.hidden_size // config.num_attention_heads)
    )


def _unless(value: Any, usual: Any) -> Any:
    return None if value == usual else value


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    """What is said, without fields that are null where transformers then takes another value."""
    return {name: value for name, value in values.items() if value is not None or name in _MAY_BE_NULL}


_MAY_BE_NULL = ("sliding_window", "attn_logit_softcapping", "final_logit_softcapping", "rope_scaling")


def _require_plain(where: Any, values: Mapping[str, Any]) -> None:
    if values.get("use_bidirectional_attention"):
        raise ModelError(f"{where}: use_bidirectional_attention is true; decoders here are causal.")
    if values.get("attention_dropout"):
        raise ModelError(
            f"{where}: attention_dropout is {values['attention_dropout']!r}; decoders here have none: write 0.0, and training goes without it."
        )


def _activation(where: Any, kind: str, values: Mapping[str, Any]) -> str:
    """Of Gemma 2 and 3 the word is hidden_activation; Gemma's "gelu" always meant the approximation by tanh."""
    act, tanh = values.get("hidden_act") or "silu", _OF_GEMMA["hidden_act"]
    if kind in ("gemma2", "gemma3_text"):
        return values.get("hidden_activation") or tanh
    if kind != "gemma":
        return act
    act = tanh if act == "gelu" else act
    if values.get("hidden_activation") not in (None, act):
        raise ModelError(
            f"{where}: hidden_act is {act!r}, and hidden_activation {values['hidden_activation']!r}; leave one, or make them one."
        )
    return act


def _windows(kind: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """sliding_window and layer_types, as transformers understands the older words."""
    window, layers = values.get("sliding_window"), values.get("num_hidden_layers") or 0
    types = values.get("layer_types")
    if kind in ("qwen2", "qwen3"):
        window = window if values.get("use_sliding_window") else None
        first = values.get("max_window_layers", 28)
        types = types or [SLIDING if window is not None and i >= first else FULL for i in range(layers)]
    elif kind == "gemma2":
        types = types or [SLIDING if (i + 1) % 2 else FULL for i in range(layers)]
    elif kind == "gemma3_text":
        pattern = values.get("sliding_window_pattern", 6)
        types = types or [SLIDING if (i + 1) % pattern else FULL for i in range(layers)]
    if types is not None and len(set(types)) == 1 and types[0] == (FULL if window is None else SLIDING):
        types = None  # as a config says it that never heard of kinds of layers
    if types is not None and set(types) == {FULL}:
        types, window = None, None
    return {"sliding_window": window, "layer_types": None if types is None else tuple(types)}


def values_of(config: CausalLMConfig) -> dict[str, Any]:
    """config.json for `transformers`; `config_of` reads the same config from it.

    Raises:
      ModelError: for a config that its family's code in transformers has no word for.

    >>> values_of(CausalLMConfig(num_hidden_layers=1))["architectures"]
    ['LlamaForCausalLM']
    """
    kind = config.model_type
    said = {name: getattr(config, name) for name in (*COMMON, *OWN[kind])}
    said["head_dim"] = config.head_size
    said["rope_scaling"] = None if config.rope_scaling is None else config.rope_scaling.values()
    if "layer_types" in OWN[kind]:
        said["layer_types"] = [SLIDING if slides else FULL for slides in config.is_sliding]
        said["sliding_window"] = config.sliding_window or (4096 if kind.startswith("gemma") else None)
    if kind in ("qwen2", "qwen3"):
        said |= {"use_sliding_window": any(config.is_sliding), "max_window_layers": 0}
    if config.family.is_gemma and (kind, config.hidden_act) != ("gemma", "gelu"):  # which is read as another
        said["hidden_activation"] = config.hidden_act
    if "query_pre_attn_scalar" in OWN[kind]:
        said["query_pre_attn_scalar"] = config.query_pre_attn_scalar or config.head_size
    if "rope_local_base_freq" in OWN[kind]:
        said["rope_local_base_freq"] = config.rope_local_base_freq or config.rope_theta
    said |= {"model_type": kind, "architectures": [config.family.architecture]}
    _require_same(config, config_of("the config", said))
    return said


def _require_same(config: CausalLMConfig, read: CausalLMConfig) -> None:
    """Raises ModelError where what is read back would compute something else."""
    for field in dataclasses.fields(CausalLMConfig):
        before, after = (_meant(of, field.name) for of in (config, read))
        if before != after:
            raise ModelError(
                f"the config has {field.name} {before!r}, for which {config.family.architecture} of transformers has no field."
            )


def _meant(config: CausalLMConfig, name: str) -> Any:
    """A field's value, with what None stands for."""
    if name == "layer_types":
        return config.is_sliding
    if name == "sliding_window":
        return config.sliding_window if any(config.is_sliding) else None
    if name in ("head_dim", "query_pre_attn_scalar"):
        return getattr(config, name) or config.head_size
    if name == "rope_local_base_freq":
        return config.rope_local_base_freq or config.rope_theta
    return getattr(config, name)
