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
from lora_jax.peft import names

NAME = "adapter_config.json"
RSLORA = "alpha/sqrt(r)"
# Fields that say nothing about what the file's tensors mean, or that the tensors themselves settle.
WITHOUT_EFFECT = {
    "auto_mapping", "base_model_name_or_path", "exclude_modules", "fan_in_fan_out", "inference_mode", "layers_pattern",
    "layers_to_transform", "megatron_core", "peft_version", "qalora_group_size", "revision", "runtime_config", "task_type",
}  # fmt: skip
UNDERSTOOD = {
    "alpha_pattern", "bias", "init_lora_weights", "lora_alpha", "lora_dropout", "modules_to_save", "peft_type", "r",
    "rank_pattern", "target_modules", "use_dora", "use_rslora",
}  # fmt: skip
# Values of init_lora_weights under which the base stays as it is at load.
KEEPS_BASE = (True, False, None, "gaussian", "orthogonal", "eva")


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
    missing = [name for name in ("lora_alpha", "target_modules") if values.get(name) is None]
    if missing:
        raise PeftError(f"{file}: {', '.join(missing)} missing; without it the adapter is not known.")
    numbers = {
        "lora_alpha": values["lora_alpha"],
        **(values.get("alpha_pattern") or {}),
        **(values.get("rank_pattern") or {}),
    }
    numbers |= {} if values.get("r") is None else {"r": values["r"]}
    odd_numbers = [f"{name}={value!r}" for name, value in numbers.items() if not _is_positive(value)]
    if odd_numbers:
        raise PeftError(f"{file}: {', '.join(odd_numbers)}: a positive number is expected.")


def _is_positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf


def _matching(values: Mapping[str, Any], field: str, path: str) -> list[tuple[str, Any]]:
    """(key, value) of every pattern that matches the end of a torch path, in the file's order."""
    try:
        return [(key, value) for key, value in (values.get(field) or {}).items() if re.match(rf"(.*\.)?({key})$", path)]
    except re.error as error:
        raise PeftError(f"{field} holds a pattern that is no regular expression: {error}.") from error


def ranks(values: Mapping[str, Any], path: str) -> set[int]:
    """The ranks that a module may have by what is written; none where nothing is."""
    found = {value for _, value in _matching(values, "rank_pattern", path)}
    usual = values.get("r")
    return found or (set() if usual is None else {usual})


def alpha(values: Mapping[str, Any], path: str, rank: int) -> int | float:
    """The alpha of a module, by the longest pattern that matches.

    PEFT takes the first that matches, and writes patterns in alphabetical order, so its own files can come back with another meaning
    than they had. Where the two readings differ, the module's rank may tell which was meant; else this warns.

    >>> alpha({"alpha_pattern": {"layer.0.query": 4, "query": 2}, "lora_alpha": 8}, "bert.layer.0.query", 2)
    4
    """
    found = _matching(values, "alpha_pattern", path)
    if not found:
        return values["lora_alpha"]
    first, longest = found[0], max(found, key=_length)
    if first[1] == longest[1]:
        return longest[1]
    of_rank = _matching(values, "rank_pattern", path)
    if of_rank and rank == of_rank[0][1] != max(of_rank, key=_length)[1]:
        return first[1]
    if not of_rank or of_rank[0][1] == max(of_rank, key=_length)[1]:
        warnings.warn(
            f"{path} matches the patterns {first[0]!r} ({first[1]}) and {longest[0]!r} ({longest[1]}); the longer is taken, as its author "
            "will have meant; PEFT would take the first in the file.",
            stacklevel=2,
        )
    return longest[1]


def _length(pair: tuple[str, Any]) -> int:
    return len(pair[0])


def scale(values: Mapping[str, Any], path: str, rank: int) -> float:
    """The factor of a module's update of this rank."""
    return scale_of(alpha(values, path, rank), rank, RSLORA if values.get("use_rslora") else "alpha/r")


def targeted(values: Mapping[str, Any], paths: Iterable[str]) -> set[str]:
    """The torch paths among these that the file means to adapt; none where "all-linear" leaves it to PEFT."""
    if values["target_modules"] == "all-linear":
        return set()
    chosen = {path for path in paths if _names(values["target_modules"], path)}
    chosen -= {path for path in chosen if _names(values.get("exclude_modules") or [], path)}
    wanted = values.get("layers_to_transform")
    if wanted is None:
        return chosen
    wanted = [wanted] if isinstance(wanted, int) else wanted
    return {path for path in chosen if _layer(values.get("layers_pattern"), path) in wanted}


def _names(names: str | Iterable[str], path: str) -> bool:
    """As PEFT reads target_modules: a regex for the whole path, or endings of it."""
    try:
        if isinstance(names, str):
            return re.fullmatch(names, path) is not None
    except re.error as error:
        raise PeftError(f"{names!r} is no regular expression: {error}.") from error
    return any(path == name or path.endswith(f".{name}") for name in names)


def _layer(patterns: str | Iterable[str] | None, path: str) -> int | None:
    """The number of the layer that a module is in, by the names of lists of layers, or by the first number in its path."""
    patterns = [patterns] if isinstance(patterns, str) else list(patterns or [r"[^.]*"])
    found = (re.match(rf".*\.{name}\.(\d+)\.", f".{path}") for name in patterns)
    return next((int(match[1]) for match in found if match), None)


def written(
    config: LoRAConfig,
    layers: Mapping[str, tuple[int, float]],
    targets: Sequence[str] | str,
    *,
    dora: bool,
    among: Iterable[str],
    **about: Any,
) -> dict[str, Any]:
    """The file's content for adapters of these (rank, scale) by torch path; patterns name what departs, each exactly.

    Args:
      among: the torch paths of all modules.
    """
    rslora = config.scaling == RSLORA
    alphas = {path: _alpha(rank, scale, rslora) for path, (rank, scale) in layers.items()}
    rank = _most_common([rank for rank, _ in layers.values()])
    alpha = _most_common(list(alphas.values()))
    among = set(among)

    def named(values: Mapping[str, Any], usual: Any) -> dict[str, Any]:
        return {names.pattern(path, among): value for path, value in sorted(values.items()) if value != usual}

    return {
        "alpha_pattern": named(alphas, alpha),
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
        "rank_pattern": named({path: r for path, (r, _) in layers.items()}, rank),
        "revision": None,
        "target_modules": targets,
        "target_parameters": None,
        "trainable_token_indices": None,
        "use_dora": dora,
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
