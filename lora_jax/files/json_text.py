"""The one reader of JSON: bounded in size and depth, no name twice, no number that is none, and what its fields must be."""

import json
import math
import types
import typing
from collections.abc import Collection, Mapping
from typing import Any

from etils import epath

from lora_jax.errors import ModelError, first_line

MAX_BYTES = 256 * 2**20
MAX_DEPTH = 64
_SHOWN = 80  # characters of a value in a message
_WORDS = {
    int: "an integer",
    float: "a finite number",
    bool: "true or false",
    str: "a string",
    list: "a list",
    dict: "an object",
    types.NoneType: "null",
}


def read_json(file: str | epath.PathLike, *, error: type[Exception] = ModelError, max_bytes: int = MAX_BYTES) -> Any:
    """The value in a file.

    Args:
      error: what is raised.
      max_bytes: a larger file is not read.

    Raises:
      error: as `parse`, and where the file cannot be read or is larger.
    """
    path = epath.Path(file)
    try:
        with path.open("rb") as opened:
            content = opened.read(max_bytes + 1)
    except OSError as problem:
        raise error(f"{file} cannot be read ({type(problem).__name__}: {problem.strerror or problem}).") from problem
    if len(content) > max_bytes:
        raise error(f"{file} has more than {max_bytes:,} bytes, which is the most that is read as JSON here.")
    return parse(content, str(file), error=error)


def parse(
    text: str | bytes,
    where: str,
    *,
    error: type[Exception] = ModelError,
    nan: bool = False,
    halves: bool = False,
    max_depth: int = MAX_DEPTH,
) -> Any:
    """The value that a JSON text says.

    Args:
      text: JSON; bytes are UTF-8.
      where: the file, or file and line, for the message.
      error: what is raised.
      nan: whether NaN and Infinity are taken, which Python writes and JSON does not have.
      halves: whether text may hold half a character (a lone surrogate), which nothing can print.
      max_depth: how deep lists and objects may lie in each other.

    Raises:
      error: for what is no JSON, has a name twice in one object, numbers that are not finite, or lies too deep.

    >>> parse('{"rank": 8}', "config.json")
    {'rank': 8}
    """

    def constant(name: str) -> float:
        if not nan:
            raise ValueError(f"{name} is not JSON")
        return float(name)

    def number(digits: str) -> float:
        value = float(digits)
        if math.isinf(value):
            raise ValueError(f"{digits[:_SHOWN]} is too large")
        return value

    try:
        text = text.decode() if isinstance(text, bytes) else text
        value = json.loads(text, object_pairs_hook=_once, parse_constant=constant, parse_float=number)
        _require_shallow_text(value, max_depth, halves)
    except (ValueError, RecursionError) as problem:
        why = f"it is nested more than {max_depth} deep" if isinstance(problem, RecursionError) else first_line(problem)
        raise error(f"{where} cannot be read as JSON ({why}).") from problem
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{_shown(next(name for name in names if names.count(name) > 1))} is there twice")
    return found


def _require_shallow_text(value: Any, max_depth: int, halves: bool) -> None:
    """Raises RecursionError for a value that lies deeper, ValueError for half a character."""
    level, depth = [value], 0
    while level:
        below: list[Any] = []
        for each in level:
            if isinstance(each, str) and not halves:
                each.encode()
            elif isinstance(each, (dict, list)):
                if depth == max_depth:
                    raise RecursionError
                below += [*each.keys(), *each.values()] if isinstance(each, dict) else each
        level, depth = below, depth + 1


def require_fields(
    values: Any,
    where: str,
    fields: Mapping[str, Any],
    *,
    required: Collection[str] = (),
    error: type[Exception] = ModelError,
) -> dict[str, Any]:
    """`values`, once it is an object whose fields have the types that are asked for; others are not looked at.

    Args:
      values: what `parse` or `read_json` returned.
      where: for the message.
      fields: name -> type: int, float (finite; an integer is one, too), bool, str, dict, list, list[...], dict[str, ...] and unions.
      required: those that must be there.
      error: what is raised.

    >>> require_fields({"rank": 8, "note": None}, "config.json", {"rank": int, "alpha": float | None}, required=("rank",))
    {'rank': 8, 'note': None}
    """
    if not isinstance(values, dict):
        raise error(f"{where} holds {_shown(values)}; expected an object, {{...}}.")
    missing = [name for name in required if name not in values]
    if missing:
        raise error(f"{where} lacks {', '.join(map(repr, missing))}.")
    for name, kind in fields.items():
        if name in values and not fits(values[name], kind):
            raise error(f"{where}: {name} is {_shown(values[name])}; expected {_said(kind)}.")
    return values


def fits(value: Any, kind: Any) -> bool:
    """Whether a value of JSON is of a type; true is no integer, and an integer is a number.

    >>> fits([1, 2], list[int]), fits(True, int), fits(1, float), fits(None, str | None)
    (True, False, True, True)
    """
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return any(fits(value, each) for each in typing.get_args(kind))
    if typing.get_origin(kind) is list:
        return isinstance(value, list) and all(fits(each, typing.get_args(kind)[0]) for each in value)
    if typing.get_origin(kind) is dict:
        return isinstance(value, dict) and all(fits(each, typing.get_args(kind)[1]) for each in value.values())
    if kind is Any:
        return True
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and _is_finite(value)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return value is None if kind is None else isinstance(value, kind)


def _is_finite(value: int | float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer with more digits than a float has room for
        return False


def _said(kind: Any) -> str:
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return " or ".join(map(_said, typing.get_args(kind)))
    if typing.get_origin(kind) is list:
        return f"a list, each of it {_said(typing.get_args(kind)[0])}"
    if typing.get_origin(kind) is dict:
        return f"an object, each value of it {_said(typing.get_args(kind)[1])}"
    return _WORDS.get(kind, getattr(kind, "__name__", str(kind)))


def _shown(value: Any) -> str:
    try:
        text = json.dumps(value)
    except ValueError:
        text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
