"""Patterns as callers give them, names, globs and regexes, in the one form in which they are kept and compared: strings."""

import re
import warnings
from collections.abc import Iterable
from typing import Any

from lora_jax.errors import ConfigError, shown
from lora_jax.regexes import is_endless

Pattern = str | re.Pattern[str]
REGEX = "re:"  # how a regex begins
_FLAGS = {re.ASCII: "a", re.IGNORECASE: "i", re.MULTILINE: "m", re.DOTALL: "s", re.VERBOSE: "x"}


def normalised(pattern: Any, field: str) -> str:
    """A pattern as a string; regexes become `re:` strings, so that equal configs compare equal after a round trip through JSON.

    Args:
      field: what the caller calls it, for the message.

    Raises:
      ConfigError: for what is no pattern, and for a regular expression that is none.

    >>> normalised(re.compile("layer_[01]/.*", re.I), "targets"), normalised("/head/", "targets")
    ('re:(?i)layer_[01]/.*', 'head')
    """
    if isinstance(pattern, re.Pattern) and isinstance(pattern.pattern, str):
        _require_quick(pattern.pattern, pattern, field)
        flags = "".join(letter for flag, letter in _FLAGS.items() if pattern.flags & flag)
        return f"{REGEX}(?{flags}){pattern.pattern}" if flags else f"{REGEX}{pattern.pattern}"
    if not isinstance(pattern, str) or not pattern.strip("/"):
        raise ConfigError(f"{field} holds {shown(pattern)}; a pattern is a non-empty string or a compiled regex.")
    if pattern.startswith(REGEX):
        _require_regex(pattern, field)
        return pattern
    return pattern.strip("/")


def _require_regex(pattern: str, field: str) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Python will read otherwise one day, it reads today
            re.compile(pattern.removeprefix(REGEX))
    except (re.error, OverflowError, RecursionError) as error:
        raise ConfigError(f"{field} holds {shown(pattern)}, which is not a regular expression: {error}.") from error
    _require_quick(pattern.removeprefix(REGEX), pattern, field)


def _require_quick(expression: str, pattern: Any, field: str) -> None:
    if is_endless(expression):
        raise ConfigError(
            f"{field} holds {shown(pattern)}, which repeats a part that itself repeats, so that a long name takes forever; write it with one repeat."
        )


def is_iterable(value: Any) -> bool:
    """Whether a value has entries to go through; an array without axes says that it has and has none.

    >>> is_iterable([1]), is_iterable(1)
    (True, False)
    """
    return isinstance(value, Iterable) and getattr(value, "ndim", 1) != 0


def all_normalised(value: Any, field: str) -> tuple[str, ...]:
    """A pattern or a sequence of them, as a tuple. Raises ConfigError as `normalised`.

    >>> all_normalised("query", "train"), all_normalised(["query", "value"], "train")
    (('query',), ('query', 'value'))
    """
    if not isinstance(value, (str, re.Pattern)) and not is_iterable(value):
        raise ConfigError(f"{field} is {shown(value)}; it must be a pattern or a sequence of patterns.")
    patterns = (value,) if isinstance(value, (str, re.Pattern)) else tuple(value)
    return tuple(normalised(pattern, field) for pattern in patterns)
