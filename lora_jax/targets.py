"""Which layers: patterns on module paths, read one way everywhere, counted, and never silently empty."""

import fnmatch
import re
from collections.abc import Iterable, Sequence
from typing import Any

from lora_jax.config import LoRAConfig
from lora_jax.errors import TargetError
from lora_jax.keys import plain

ALL_LINEAR, OUTPUT_LAYERS = RESERVED = "all-linear", "output-layers"


def _is_regex(pattern: str) -> bool:
    return pattern.startswith("re:")


def _is_glob(pattern: str) -> bool:
    return any(mark in pattern for mark in "*?[")


def matches(pattern: str, *names: str) -> bool:
    """Whether `pattern` selects what has these names, paths all of them.

    >>> matches("query", "encoder/layer_0/query"), matches("layer_*/query", "encoder/layer_0/query")
    (True, True)
    >>> matches("re:.*/(query|value)", "encoder/layer_0/value"), matches("uery", "encoder/layer_0/query")
    (True, False)
    """
    return any(_matches(pattern, name) for name in names)


def _matches(pattern: str, path: str) -> bool:
    path = plain(path)
    if path == pattern or path.endswith(f"/{pattern}"):  # a name, whatever signs are in it
        return True
    if _is_regex(pattern):
        return re.fullmatch(pattern[3:], path) is not None
    if _is_glob(pattern):
        return fnmatch.fnmatchcase(path, pattern) or fnmatch.fnmatchcase(path, f"*/{pattern}")
    return False


def require_one_reading(field: str, pattern: str, names: Iterable[str]) -> None:
    """Raises TargetError where a pattern is a name of some of these, and as a glob or a regex matches others too.

    >>> require_one_reading("targets", "block_[01]", ["block_0/kernel", "block_0"])
    """
    if not (_is_glob(pattern) or _is_regex(pattern)):
        return
    plainly = [name for name in map(plain, names) if matches(pattern, name)]
    named = [name for name in plainly if name == pattern or name.endswith(f"/{pattern}")]
    others = [name for name in plainly if name not in named and not any(name.startswith(f"{one}/") for one in named)]
    if named and others:
        raise TargetError(
            f"{field}: {pattern!r} is the name of {named[0]}, and read as a {'regex' if _is_regex(pattern) else 'glob'} it matches {others[0]} too; "
            f"write 're:{re.escape(named[0])}' for the one."
        )


def exactly(path: str, among: Iterable[str]) -> str:
    """A pattern that selects `path` and no other of these: the path itself, or a regex where that is the ending of another.

    >>> exactly("block/dense", ["dense", "block/dense"]), exactly("dense", ["dense", "block/dense"])
    ('block/dense', 're:dense')
    """
    path = plain(path)
    others = (
        [other for other in among if plain(other) != path and matches(path, other)]
        if path
        else ["the root has no name"]
    )
    is_plain = not others and not _is_regex(path) and path not in RESERVED
    return path if is_plain else f"re:{re.escape(path)}"


def _specificity(pattern: str, path: str) -> tuple[int, int]:
    """Full path > name > glob > regex; then the number of characters that are matched literally."""
    if _is_regex(pattern):
        return 0, len(re.sub(r"[^\w/]", "", pattern[3:]))
    if _is_glob(pattern):
        return 1, len(re.sub(r"\[.*?\]|[*?]", "", pattern))
    return (3 if plain(path) == pattern else 2), len(pattern)


def most_specific(pairs: Sequence[tuple[str, Any]], names: Sequence[str], default: Any) -> Any:
    """The value of the most specific pattern that matches one of the names; the order of `pairs` is irrelevant.

    >>> most_specific([("query", 4), ("*", 2), ("layer_0/query", 16)], ["layer_0/query"], 8)
    16

    Raises:
      TargetError: when two equally specific patterns give different values.
    """
    found = sorted(
        (
            (max(_specificity(p, name) for name in names if matches(p, name)), p, value)
            for p, value in pairs
            if matches(p, *names)
        ),
        reverse=True,
    )
    if not found:
        return default
    top = [entry for entry in found if entry[0] == found[0][0]]
    if len({value for _, _, value in top}) > 1:
        rivals = " and ".join(f"{pattern!r}: {value}" for _, pattern, value in top)
        raise TargetError(
            f"{names[-1] or names[0]} is matched by equally specific patterns, {rivals}; name the path in full."
        )
    return found[0][2]


def rank_and_alpha(config: LoRAConfig, *names: str) -> tuple[int, int | float | None]:
    """The rank and alpha of the layer of these names."""
    rank = most_specific(config.rank_pattern, names, config.rank)
    return int(rank), most_specific(config.alpha_pattern, names, config.alpha)
