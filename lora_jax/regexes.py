"""Regular expressions that never end: a repeat of repeats tries every way to cut a name into pieces, 2 to the power of its letters."""

import re
import warnings
from typing import Any

_parser: Any = re._parser  # type: ignore[attr-defined]  # Python's own, which has no public name
_REPEATS = ("MAX_REPEAT", "MIN_REPEAT")
MANY = 16  # repeats


def is_endless(expression: str) -> bool:
    """Whether it repeats, without anything between, what is repeated itself. What is no regular expression is not asked here.

    >>> is_endless("(a+)+$"), is_endless(r"(layer_[0-9]+/)*query"), is_endless(".*/query")
    (True, False, False)
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parsed = _parser.parse(expression)
    except (re.error, OverflowError, RecursionError):
        return False
    return _has_endless(parsed)


def _has_endless(parsed: Any) -> bool:
    for operation, argument in parsed:
        is_repeat = str(operation) in _REPEATS and argument[1] > MANY
        if is_repeat and _is_made_of_repeats(argument[2]):
            return True
        if any(_has_endless(inner) for inner in _inside(argument)):
            return True
    return False


def _is_made_of_repeats(parsed: Any) -> bool:
    """Whether a repeat can be all that is matched, so that nothing tells where it ends and the next begins."""
    if any(str(operation) == "BRANCH" and any(map(_is_made_of_repeats, argument[1])) for operation, argument in parsed):
        return all(_may_be_empty([item]) or str(item[0]) == "BRANCH" for item in parsed)
    repeats = [item for item in parsed if _is_or_holds_repeat(item)]
    return bool(repeats) and sum(not _may_be_empty([item]) for item in parsed if item not in repeats) == 0


def _is_or_holds_repeat(item: Any) -> bool:
    operation, argument = item
    if str(operation) in _REPEATS:
        return argument[1] > MANY
    return str(operation) == "SUBPATTERN" and _is_made_of_repeats(argument[-1])


def _may_be_empty(items: Any) -> bool:
    """Whether nothing at all is matched by each of these."""
    for operation, argument in items:
        name = str(operation)
        if name in _REPEATS:
            empty = argument[0] == 0 or _may_be_empty(argument[2])
        elif name == "SUBPATTERN":
            empty = _may_be_empty(argument[-1])
        elif name == "BRANCH":
            empty = any(map(_may_be_empty, argument[1]))
        else:
            empty = name in ("AT", "ASSERT", "ASSERT_NOT")
        if not empty:
            return False
    return True


def _inside(argument: Any) -> list[Any]:
    """The parts of an operation that are expressions themselves."""
    if isinstance(argument, _parser.SubPattern):
        return [argument]
    if isinstance(argument, (tuple, list)):
        return [inner for each in argument for inner in _inside(each)]
    return []
