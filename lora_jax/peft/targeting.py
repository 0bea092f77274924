"""Which layers an `adapter_config.json` speaks of, by PEFT's own rules."""

import re
from collections.abc import Callable, Iterable, Mapping, Set
from typing import Any

from lora_jax.errors import closest
from lora_jax.peft import fields

ALL_LINEAR = "all-linear"


def targeted(values: Mapping[str, Any], paths: Mapping[str, bool], adapted: Set[str] = frozenset()) -> set[str]:
    """The torch paths among these that the file means to adapt.

    The number of a layer is the first in a path; before mid 2026 PEFT took the last. Where the two differ, the file's own adapters decide.

    Args:
      paths: torch path -> whether it is a linear layer, which is what "all-linear" asks.
      adapted: those that the file has an adapter of.

    >>> sorted(targeted({"target_modules": ["q"], "layers_to_transform": 1}, {"m.layers.0.q": True, "m.layers.1.q": True}))
    ['m.layers.1.q']
    """
    new, old = (
        {path for path, is_linear in paths.items() if _is_targeted(values, path, is_linear, number)}
        for number in (first_number, last_number)
    )
    return old if new != adapted & paths.keys() == old else new


def _is_targeted(values: Mapping[str, Any], path: str, is_linear: bool, number: Callable) -> bool:
    wanted = modules(values)
    if _names(values.get("exclude_modules") or [], path) or is_saved_whole(values, path):
        return False
    if is_all_linear(values):
        return is_linear
    if isinstance(wanted, str) or path in wanted:
        return _names(wanted, path)
    return _names(wanted, path) and _is_in_layers(values, path, number)


def modules(values: Mapping[str, Any]) -> list[str] | str:
    """target_modules; none where only parameters are targets."""
    return values.get("target_modules") or []


def is_saved_whole(values: Mapping[str, Any], path: str) -> bool:
    """Whether modules_to_save takes a module out of the targets; its names are regular expressions here."""
    return any(is_taken_by(name, path) for name in values.get("modules_to_save") or ())


def is_taken_by(name: str, path: str) -> bool:
    """PEFT's own expression.

    >>> is_taken_by("head", "model.head.dense"), is_taken_by("head", "model.ahead")
    (True, False)
    """
    return re.match(fields.SAVED.format(name), path) is not None


def is_all_linear(values: Mapping[str, Any]) -> bool:
    """Whether it has the word for every linear layer; PEFT writes their names in its place."""
    wanted = modules(values)
    return isinstance(wanted, str) and wanted.lower() == ALL_LINEAR


def names_parameter(values: Mapping[str, Any], path: str) -> bool:
    """Whether target_parameters names the parameter at this torch path.

    >>> names_parameter({"target_parameters": ["experts.up"]}, "layers.0.experts.up")
    True
    """
    return _names(values.get("target_parameters") or [], path)


def idle(values: Mapping[str, Any], layers: Iterable[str], adapted: Iterable[str]) -> list[str]:
    """One phrase for each field with a name in it that means nothing.

    Args:
      layers: the torch paths of the model's layers.
      adapted: those of the file's adapters.
    """
    adapted, wanted = set(adapted), modules(values)
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
        keys = {key for path in adapted for key, _ in matching(values, field, path)}
        lines += [
            f"{field} names {key!r}, and no adapter in it is called so"
            for key in values.get(field) or {}
            if key not in keys
        ]
    return lines


def matching(values: Mapping[str, Any], field: str, path: str) -> list[tuple[str, Any]]:
    """(key, value) of every pattern that matches the end of a torch path, in the file's order."""
    given = values.get(field) or {}
    return [(key, value) for key, value in given.items() if re.match(fields.KEY_OF_PATTERN.format(key), path)]


def _names(names: str | Iterable[str], path: str) -> bool:
    """As PEFT reads target_modules: a regex for the whole path, or endings of it."""
    if isinstance(names, str):
        return re.fullmatch(names, path) is not None
    return any(path == name or path.endswith(f".{name}") for name in names)


def _is_in_layers(values: Mapping[str, Any], path: str, number: Callable) -> bool:
    """Whether layers_to_transform has the module's layer, or says nothing."""
    wanted, patterns = values.get("layers_to_transform"), values.get("layers_pattern") or []
    if wanted is None or wanted == []:
        return True
    patterns = [patterns] if isinstance(patterns, str) else patterns
    return number(path, patterns) in (wanted if isinstance(wanted, list) else [wanted])


def first_number(path: str, patterns: list[str]) -> int | None:
    """The number of a path's layer as PEFT reads it now: the first, or the first after a name that layers_pattern gives.

    >>> first_number("model.layers.1.experts.0.up", []), first_number("layers.1.experts.0.up", ["experts"])
    (1, 0)
    """
    return _number((fields.FIRST_NUMBER_AFTER.format(p) for p in patterns) if patterns else [fields.FIRST_NUMBER], path)


def last_number(path: str, patterns: list[str]) -> int | None:
    """The same as PEFT read it before mid 2026: the last."""
    return _number((fields.LAST_NUMBER.format(pattern) for pattern in patterns or [r"[^.]*"]), path)


def _number(expressions: Iterable[str], path: str) -> int | None:
    found = (re.match(expression, path) for expression in expressions)
    return next((int(match[1]) for match in found if match), None)
