"""`adapter_config.json`: what is written, and what is understood of it. What is not supported is refused by name."""

import collections
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from lora_jax.config import LoRAConfig, scale_of
from lora_jax.errors import PeftError
from lora_jax.files import read_json
from lora_jax.peft import names, options
from lora_jax.peft.targeting import matching

NAME = "adapter_config.json"
RSLORA = "alpha/sqrt(r)"
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
        raise PeftError(f"{folder}: there is no {NAME} in it; {_where_it_may_be(folder)}")
    values = read_json(file, error=PeftError)
    if not isinstance(values, dict) or values.get("peft_type") != "LORA":
        kind = values.get("peft_type") if isinstance(values, dict) else None
        raise PeftError(f"{file}: peft_type is {kind!r}; only 'LORA' can be read.")
    wrong = options.problem(values)
    if wrong:
        raise PeftError(f"{file}: {wrong}")
    return values


def _where_it_may_be(folder: epath.Path) -> str:
    """What to write instead: a folder below that has one, as PEFT makes one for each adapter that it saves by a name."""
    below = sorted(path.parent.name for path in folder.glob(f"*/{NAME}")) if folder.is_dir() else []
    if not below:
        return "name a folder that PEFT's save_pretrained or lora_jax.peft.save wrote."
    more = f", or one of {', '.join(below[1:4])}" if below[1:] else ""
    return f"the folder {below[0]!r} below it has one: load {str(folder / below[0])!r}{more}."


def ranks(values: Mapping[str, Any], path: str) -> set[int]:
    """The ranks that a module may have by what is written; none where nothing is."""
    found = {value for _, value in matching(values, "rank_pattern", path)}
    usual = values.get("r")
    return found or (set() if usual is None else {usual})


def alpha(values: Mapping[str, Any], path: str, rank: int) -> int | float:
    """The alpha of a module, by the longest pattern that matches.

    PEFT takes the first that matches, and writes patterns in alphabetical order, so its own files can come back with another meaning
    than they had. Where the two readings differ, the module's rank may tell which was meant; else this warns.

    >>> alpha({"alpha_pattern": {"layer.0.query": 4, "query": 2}, "lora_alpha": 8}, "bert.layer.0.query", 2)
    4
    """
    found = matching(values, "alpha_pattern", path)
    if not found:
        return values["lora_alpha"]
    first, longest = found[0], max(found, key=_length)
    if first[1] == longest[1]:
        return longest[1]
    of_rank = matching(values, "rank_pattern", path)
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


def heads_of_task(values: Mapping[str, Any]) -> tuple[str, ...]:
    """The heads that PEFT trains whole for a task; its older versions did not say so in modules_to_save."""
    return HEADS_OF_TASKS.get(values.get("task_type"), ())


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
        "lora_dropout": config.dropout,
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": named({path: r for path, (r, _) in layers.items()}, rank),
        "revision": None,
        "target_modules": targets,
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
