"""`adapter_config.json`: what is written, and what is understood of it. What is not supported is refused by name."""

import collections
import math
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from lora_jax.config import LoRAConfig, scale_of
from lora_jax.errors import PeftError, closest
from lora_jax.files import read_json
from lora_jax.peft import fields, names

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
ALL_LINEAR = "all-linear"
EMBEDDINGS = ("embed_tokens", "lm_head")  # by PEFT's constants.EMBEDDING_LAYER_NAMES
HEADS_OF_TASKS = {
    "SEQ_CLS": ("classifier", "score"),
    "TOKEN_CLS": ("classifier", "score"),
    "QUESTION_ANS": ("qa_outputs",),
}


def read(folder: epath.Path) -> dict[str, Any]:
    """What the file says, once every part of it is known to be supported.

    Raises:
      PeftError: for a folder without it, one that cannot be read, another kind of adapter, or options that are not supported.
    """
    file = folder / NAME
    if not file.is_file():
        raise PeftError(
            f"{folder}: there is no {NAME} in it; name a folder that PEFT's save_pretrained or lora_jax.peft.save wrote."
        )
    values = read_json(file, error=PeftError)
    if not isinstance(values, dict) or values.get("peft_type") != "LORA":
        kind = values.get("peft_type") if isinstance(values, dict) else None
        raise PeftError(f"{file}: peft_type is {kind!r}; only 'LORA' can be read.")
    _require_supported(file, values)
    return values


def _require_supported(file: epath.Path, values: Mapping[str, Any]) -> None:
    known = WITHOUT_EFFECT | UNDERSTOOD
    if values.get("init_lora_weights") == "eva":
        known = known | {"eva_config"}  # how the start was found, before any training
    odd = {
        name: value for name, value in values.items() if name not in known and value not in (None, False, {}, [], "")
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
    wrong = fields.problems(values)
    if wrong:
        raise PeftError(f"{file}: {'; '.join(wrong)}; set what the adapter was trained with.")


def _matching(values: Mapping[str, Any], field: str, path: str) -> list[tuple[str, Any]]:
    """(key, value) of every pattern that matches the end of a torch path, in the file's order."""
    given = values.get(field) or {}
    return [(key, value) for key, value in given.items() if re.match(fields.KEY_OF_PATTERN.format(key), path)]


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


def targeted(values: Mapping[str, Any], paths: Mapping[str, bool]) -> set[str]:
    """The torch paths among these that the file means to adapt, by PEFT's rules.

    Args:
      paths: torch path -> whether it is a linear layer, which is what "all-linear" asks.

    >>> sorted(targeted({"target_modules": ["q"], "layers_to_transform": 1}, {"m.layers.0.q": True, "m.layers.1.q": True}))
    ['m.layers.1.q']
    """
    return {path for path, is_linear in paths.items() if _is_targeted(values, path, is_linear)}


def _is_targeted(values: Mapping[str, Any], path: str, is_linear: bool) -> bool:
    wanted = values["target_modules"]
    if _names(values.get("exclude_modules") or [], path):
        return False
    if any(f".{name}." in f".{path}." for name in values.get("modules_to_save") or ()):
        return False
    if is_all_linear(values):
        return is_linear
    if isinstance(wanted, str) or path in wanted:
        return _names(wanted, path)
    return _names(wanted, path) and _is_in_layers(values, path)


def is_all_linear(values: Mapping[str, Any]) -> bool:
    """Whether it has the word for every linear layer; PEFT writes their names in its place."""
    wanted = values["target_modules"]
    return isinstance(wanted, str) and wanted.lower() == ALL_LINEAR


def idle(values: Mapping[str, Any], layers: Iterable[str], adapted: Iterable[str]) -> list[str]:
    """One phrase for each field with a name in it that means nothing.

    Args:
      layers: the torch paths of the model's layers.
      adapted: those of the file's adapters.
    """
    adapted, wanted = set(adapted), values["target_modules"]
    every = {*layers, *adapted}  # a name may well be excluded again; what another model has is told tensor by tensor
    lines = []
    wanted = [] if isinstance(wanted, str) else wanted  # a regex has no names: only what it matches can be asked
    strange = [name for name in wanted if not any(_names([name], path) for path in every)]
    if strange:
        near = closest(strange[0].replace(".", "/"), (path.replace(".", "/") for path in every)).replace("/", ".")
        lines.append(
            f"target_modules names {', '.join(map(repr, strange))}, and no layer is called so; closest: {near}"
        )
    for field in ("rank_pattern", "alpha_pattern"):
        keys = {key for path in adapted for key, _ in _matching(values, field, path)}
        lines += [
            f"{field} names {key!r}, and no adapter in it is called so"
            for key in values.get(field) or {}
            if key not in keys
        ]
    return lines


def _names(names: str | Iterable[str], path: str) -> bool:
    """As PEFT reads target_modules: a regex for the whole path, or endings of it."""
    if isinstance(names, str):
        return re.fullmatch(names, path) is not None
    return any(path == name or path.endswith(f".{name}") for name in names)


def _is_in_layers(values: Mapping[str, Any], path: str) -> bool:
    """Whether layers_to_transform has the module's layer, or says nothing.

    The layer is the last number in its path, or the one after a name that layers_pattern gives.
    """
    wanted, patterns = values.get("layers_to_transform"), values.get("layers_pattern") or r"[^.]*"
    if wanted is None or wanted == []:
        return True
    patterns = [patterns] if isinstance(patterns, str) else patterns
    found = (re.match(fields.NUMBER_OF_LAYER.format(pattern), path) for pattern in patterns)
    layer = next((int(match[1]) for match in found if match), None)
    return layer in (wanted if isinstance(wanted, list) else [wanted])


def heads_of_task(values: Mapping[str, Any]) -> tuple[str, ...]:
    """The heads that PEFT trains whole for a task; its older versions did not say so in modules_to_save."""
    return HEADS_OF_TASKS.get(values.get("task_type"), ())


def keeps_embeddings(values: Mapping[str, Any]) -> bool:
    """Whether PEFT saved the weights of the embeddings: it does as soon as one of them is named as a target."""
    return any(name in values["target_modules"] for name in EMBEDDINGS)


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
