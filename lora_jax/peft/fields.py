"""The fields of `adapter_config.json` that are read: what each may hold."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from lora_jax.regexes import is_endless

LARGEST = float(np.finfo(np.float32).max)  # scales are float32
# PEFT's own regular expressions: what a file gives is a part of them, so that only the whole shows whether it is one.
KEY_OF_PATTERN = r"(.*\.)?({})$"
SAVED = r"(^|.*\.){}($|\..*)"
FIRST_NUMBER, FIRST_NUMBER_AFTER = r".*?\.[^.]*\.(\d+)\.", r"(?:^|.*?\.){}\.(\d+)\."
LAST_NUMBER = r".*\.{}\.(\d+)\."  # before mid 2026


def problems(values: Mapping[str, Any]) -> list[str]:
    """One phrase for each field that holds something else than PEFT writes there; null is as good as no field.

    >>> problems({"r": 2.5, "bias": "none", "use_rslora": "no", "rank_pattern": None})
    ['r is 2.5, expected a positive whole number', "use_rslora is 'no', expected true or false"]
    """
    found = [
        f"{name} is {value!r}, expected {CHECKS[name][1]}"
        for name, value in values.items()
        if name in CHECKS and value is not None and not CHECKS[name][0](value)
    ]
    if isinstance(values.get("target_modules"), str) and values.get("layers_to_transform") is not None:
        found.append("layers_to_transform is given, and PEFT takes it beside a list of target_modules only")
    return found


def _is_positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= LARGEST


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_rank(value: Any) -> bool:
    return _is_whole(value) and value > 0


def _is_rate(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_bias(value: Any) -> bool:
    return value in ("none", "all", "lora_only")


def _is_list_of(kind: Callable[[Any], bool], value: Any) -> bool:
    return isinstance(value, list) and all(map(kind, value))


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _are_names(value: Any) -> bool:
    return _is_list_of(_is_name, value)


def _are_saved(value: Any) -> bool:
    return _are_names(value) and all(_is_regex(SAVED.format(name)) for name in value)


def _are_rows(value: Any) -> bool:
    return _is_list_of(_is_row, value) and len(set(value)) == len(value)


def _is_row(value: Any) -> bool:
    return _is_whole(value) and value >= 0


def _are_tokens(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_name(name) and _are_rows(rows) for name, rows in value.items())
    return _are_rows(value)


def _are_modules(value: Any) -> bool:
    return _is_regex(value) if isinstance(value, str) else _are_names(value)


def _are_layers(value: Any) -> bool:
    return _is_whole(value) or _is_list_of(_is_whole, value)


def _names_layers(value: Any) -> bool:
    return isinstance(value, str) and _is_regex(FIRST_NUMBER_AFTER.format(value), groups=1)


def _name_layers(value: Any) -> bool:
    return _names_layers(value) or _is_list_of(_names_layers, value)


def _is_pattern_of(kind: Callable[[Any], bool], value: Any) -> bool:
    return isinstance(value, dict) and all(
        _is_regex(KEY_OF_PATTERN.format(key)) and kind(number) for key, number in value.items()
    )


def _are_alphas(value: Any) -> bool:
    return _is_pattern_of(_is_positive, value)


def _are_ranks(value: Any) -> bool:
    return _is_pattern_of(_is_rank, value)


def _is_regex(text: str, groups: int | None = None) -> bool:
    """Whether it can be compiled, comes to an end on every name, and has this number of groups."""
    if is_endless(text):
        return False
    try:
        return re.compile(text).groups == groups or groups is None
    except (re.error, OverflowError, RecursionError):
        return False


MODULES = "a list of names, or a regular expression"
CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "alpha_pattern": (_are_alphas, "regular expressions with a positive number each"),
    "base_model_name_or_path": (_is_text, "a text"),
    "bias": (_is_bias, "'none', 'all' or 'lora_only'"),
    "exclude_modules": (_are_modules, MODULES),
    "layers_pattern": (_name_layers, "a regular expression without groups, or a list of such"),
    "layers_to_transform": (_are_layers, "a whole number, or a list of such"),
    "lora_alpha": (_is_positive, "a positive number"),
    "lora_dropout": (_is_rate, "a number in [0, 1)"),
    "ensure_weight_tying": (_is_flag, "true or false"),
    "lora_bias": (_is_flag, "true or false"),
    "modules_to_save": (_are_saved, "a list of names that are regular expressions too"),
    "r": (_is_rank, "a positive whole number"),
    "rank_pattern": (_are_ranks, "regular expressions with a positive whole number each"),
    "target_modules": (_are_modules, MODULES),
    "task_type": (_is_text, "a text"),
    "target_parameters": (_are_names, "a list of names"),
    "trainable_token_indices": (_are_tokens, "a list of different rows, or such a list for each of some names"),
    "use_dora": (_is_flag, "true or false"),
    "use_rslora": (_is_flag, "true or false"),
}
