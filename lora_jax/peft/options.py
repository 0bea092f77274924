"""The options of `adapter_config.json`: which are understood, which say nothing about the tensors, and why the others are refused."""

from collections.abc import Mapping
from typing import Any

from lora_jax.peft import fields

# Fields that say nothing about what the file's tensors mean, or that the tensors themselves settle. Those that end in _config say how the
# start was found; whether it changed the base, init_lora_weights says. VeLoRA's acts in the backward pass alone.
WITHOUT_EFFECT = {
    "auto_mapping", "base_model_name_or_path", "corda_config", "eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode",
    "layers_pattern", "layers_to_transform", "loftq_config", "lora_ga_config", "megatron_core", "peft_version", "qalora_group_size",
    "revision", "runtime_config", "task_type", "velora_config",
}  # fmt: skip
UNDERSTOOD = {
    "alpha_pattern", "bias", "ensure_weight_tying", "init_lora_weights", "lora_alpha", "lora_bias", "lora_dropout", "modules_to_save",
    "peft_type", "r", "rank_pattern", "target_modules", "target_parameters", "trainable_token_indices", "use_dora", "use_rslora",
}  # fmt: skip
REFUSED = {
    "alora_invocation_tokens": "aLoRA acts only on the tokens from its invocation on",
    "arrow_config": "Arrow routes each token among several adapters",
    "kasa_config": "KaSA cuts the base's smallest singular values away, and has a diagonal between the factors",
    "layer_replication": "the adapter is of a model whose layers are repeated",
    "megatron_config": "the adapter is of Megatron's parallel layers",
    "monteclora_config": "MonteCLoRA adds to the factors what it samples",
    "use_bdlora": "BD-LoRA's factors are made of blocks",
    "use_qalora": "QA-LoRA pools the inputs of quantised layers",
}
KEEPS_BASE = (
    "gaussian",
    "orthogonal",
    "eva",
    "mica",
)  # words of init_lora_weights under which the base stays as it is at load
CHANGES_BASE = ("pissa", "olora", "corda", "lora_ga")
CONVERT = " Such an adapter belongs to a changed base: save it in PEFT with path_initial_model_for_weight_conversion, which makes a plain one of it."
QUANTISED = (
    " LoftQ's adapter belongs to a base that it quantised anew: save that base too, and read it as one of its own."
)


def problem(values: Mapping[str, Any]) -> str:
    """What is wrong with the options, as the end of a sentence; "" where all are supported.

    >>> problem({"lora_alpha": 8, "target_modules": ["q"], "arrow_config": {"top_k": 2}})
    "not supported: arrow_config={'top_k': 2} (Arrow routes each token among several adapters)."
    """
    odd = {name: value for name, value in values.items() if _is_odd(name, value)}
    if odd:
        said = ", ".join(f"{name}={value!r}{_reason(name)}" for name, value in sorted(odd.items()))
        return f"not supported: {said}.{_advice(odd.get('init_lora_weights'))}"
    missing = [name for name in ("lora_alpha", "target_modules") if _lacks(values, name)]
    if missing:
        return f"{', '.join(missing)} missing; without it the adapter is not known."
    wrong = fields.problems(values)
    return f"{'; '.join(wrong)}; set what the adapter was trained with." if wrong else ""


def _is_odd(name: str, value: Any) -> bool:
    if name == "init_lora_weights":
        return not (value in (True, False, None) or (isinstance(value, str) and value.lower() in KEEPS_BASE))
    return name not in WITHOUT_EFFECT | UNDERSTOOD and value not in (None, False, {}, [], "")


def _reason(name: str) -> str:
    return f" ({REFUSED[name]})" if name in REFUSED else ""


def _advice(init: Any) -> str:
    if not isinstance(init, str):
        return ""
    if init.lower() == "loftq":
        return QUANTISED
    return CONVERT if init.lower().startswith(CHANGES_BASE) else ""


def _lacks(values: Mapping[str, Any], name: str) -> bool:
    """Whether a field that is needed is not there; who names parameters need not name modules."""
    return values.get(name) is None and not (name == "target_modules" and values.get("target_parameters"))
