"""`adapter_config.json`: what is written, and what is understood of it. What is not supported is refused by name."""

import collections
import json
import math
import pathlib
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from lora_jax.config import LoRAConfig, scale_of
from lora_jax.errors import PeftError, first_line

NAME = "adapter_config.json"
RSLORA = "alpha/sqrt(r)"
# Fields that say nothing about what the file's tensors mean, or that the tensors themselves settle.
WITHOUT_EFFECT = {
    *(
        "auto_mapping",
        "base_model_name_or_path",
        "exclude_modules",
        "fan_in_fan_out",
        "inference_mode",
        "layers_pattern",
    ),
    *(
        "layers_to_transform",
        "megatron_core",
        "peft_version",
        "qalora_group_size",
        "revision",
        "runtime_config",
        "task_type",
    ),
}
UNDERSTOOD = {
    *("alpha_pattern", "bias", "init_lora_weights", "lora_alpha", "lora_dropout", "modules_to_save", "peft_type", "r"),
    *("rank_pattern", "target_modules", "use_dora", "use_rslora"),
}
KEEPS_BASE = (
    True,
    False,
    None,
    "gaussian",
    "orthogonal",
    "eva",
)  # of init_lora_weights: others change the base at load


def read(folder: pathlib.Path) -> dict[str, Any]:
    """What the file says, once every part of it is known to be supported.

    Raises:
      PeftError: for a folder without it, one that cannot be read, another kind of adapter, or options that are not supported.
    """
    file = folder / NAME
    if not file.is_file():
        raise PeftError(
            f"{folder}: there is no {NAME} in it; name a folder that PEFT's save_pretrained or lora_jax.peft.save wrote."
        )
    try:
        values = json.loads(file.read_text())
    except (ValueError, OSError) as error:
        raise PeftError(f"{file} cannot be read ({type(error).__name__}: {first_line(error)}).") from error
    if not isinstance(values, dict) or values.get("peft_type") != "LORA":
        kind = values.get("peft_type") if isinstance(values, dict) else None
        raise PeftError(f"{file}: peft_type is {kind!r}; only 'LORA' can be read.")
    _require_supported(file, values)
    return values


def _require_supported(file: pathlib.Path, values: Mapping[str, Any]) -> None:
    odd = {
        name: value
        for name, value in values.items()
        if name not in WITHOUT_EFFECT | UNDERSTOOD and value not in (None, False, {}, [], "")
    }
    if values.get("init_lora_weights", True) not in KEEPS_BASE:
        odd["init_lora_weights"] = values["init_lora_weights"]
    if odd:
        said = ", ".join(f"{name}={value!r}" for name, value in sorted(odd.items()))
        advice = ""
        if "init_lora_weights" in odd:
            advice = (
                " Such an adapter belongs to a changed base: save it in PEFT with path_initial_model_for_weight_conversion, "
                "which makes a plain one of it."
            )
        raise PeftError(f"{file}: not supported: {said}.{advice}")
    missing = [name for name in ("r", "lora_alpha", "target_modules") if values.get(name) is None]
    if missing:
        raise PeftError(f"{file}: {', '.join(missing)} missing; without it the update's scale is not known.")


def pattern_value(patterns: Mapping[str, Any] | None, path: str, default: Any) -> Any:
    """The value of the longest pattern that matches the end of a torch path.

    PEFT takes the first that matches, and writes patterns in alphabetical order, so its own files can come back with another meaning
    than they had. Where the two readings differ, this warns.

    >>> pattern_value({"layer.0.query": 4, "query": 2}, "bert.layer.0.query", 8)
    4
    """
    found = [(key, value) for key, value in (patterns or {}).items() if re.match(rf"(.*\.)?({key})$", path)]
    if not found:
        return default
    key, value = max(found, key=lambda pair: len(pair[0]))
    if value != found[0][1]:
        warnings.warn(
            f"{path} matches the patterns {found[0][0]!r} ({found[0][1]}) and {key!r} ({value}); the longer is taken, as its author "
            "will have meant; PEFT would take the first in the file.",
            stacklevel=2,
        )
    return value


def scale(values: Mapping[str, Any], path: str, rank: int) -> float:
    """The factor of a module's update of this rank."""
    alpha = pattern_value(values.get("alpha_pattern"), path, values["lora_alpha"])
    return scale_of(alpha, rank, RSLORA if values.get("use_rslora") else "alpha/r")


def targeted(values: Mapping[str, Any], paths: Iterable[str]) -> set[str]:
    """The torch paths among these that target_modules names; none where layers are picked in another way."""
    targets = values["target_modules"]
    if values.get("layers_to_transform") is not None or values.get("exclude_modules") or targets == "all-linear":
        return set()
    if isinstance(targets, str):
        return {path for path in paths if re.fullmatch(targets, path)}
    return {path for path in paths if any(path == name or path.endswith(f".{name}") for name in targets)}


def written(
    config: LoRAConfig, layers: Mapping[str, tuple[int, float]], targets: Sequence[str], **about: Any
) -> dict[str, Any]:
    """The file's content for adapters of these (rank, scale) by torch path; patterns name what departs, by its full path."""
    rslora = config.scaling == RSLORA
    alphas = {path: _alpha(rank, scale, rslora) for path, (rank, scale) in layers.items()}
    rank = _most_common([rank for rank, _ in layers.values()])
    alpha = _most_common(list(alphas.values()))
    return {
        "alpha_pattern": {path: a for path, a in sorted(alphas.items()) if a != alpha},
        "auto_mapping": None,
        "exclude_modules": None,
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "layers_pattern": None,
        "layers_to_transform": None,
        "lora_alpha": alpha,
        "lora_bias": False,
        "lora_dropout": config.dropout,
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": {path: r for path, (r, _) in sorted(layers.items()) if r != rank},
        "revision": None,
        "target_modules": sorted(targets),
        "target_parameters": None,
        "trainable_token_indices": None,
        "use_dora": config.dora,
        "use_rslora": rslora,
        **about,
    }


def _alpha(rank: int, scale: float, rslora: bool) -> int | float:
    """The alpha that gives this float32 scale: the shortest number that does."""
    rule = RSLORA if rslora else "alpha/r"
    exact = scale * (math.sqrt(rank) if rslora else rank)
    for digits in range(1, 10):
        short = float(f"{exact:.{digits}g}")
        if np.float32(scale_of(short, rank, rule)) == np.float32(scale):
            return int(short) if short.is_integer() else short
    return exact


def _most_common(values: list) -> Any:
    """The most frequent value; the smallest of those."""
    counts = collections.Counter(values)
    return min(counts, key=lambda value: (-counts[value], value))
