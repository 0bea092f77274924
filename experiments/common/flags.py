"""Types of flags: numbers in a range, lists, texts, paths. What can have no sense is refused where the flags are read."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from absl import flags

from experiments.common import paths

MOST = 2**31 - 1  # of an integer flag: JAX counts in 32 bits
MOST_SEED = 2**32 - 1
LEAST_RATE, MOST_RATE = 1e-12, 1e30  # a lower one moves no weight in float32, a higher one has no place there
FLAGS = flags.FLAGS


class _Integer(flags.ArgumentParser):
    """An integer in a range."""

    hint = "N"

    def __init__(self, least: int, most: int):
        self._least, self._most = least, most

    def parse(self, argument: Any) -> int:
        try:
            value = int(argument) if str(argument).isascii() else None
        except ValueError:
            value = None
        if value is None or not self._least <= value <= self._most:
            raise ValueError(f"expected an integer from {self._least:,} to {self._most:,}")
        return value


class _Number(flags.ArgumentParser):
    """A number in a range; 0 belongs to it or not."""

    hint = "X"

    def __init__(self, least: float, most: float, has_zero: bool):
        self._least, self._most, self._has_zero = least, most, has_zero

    def parse(self, argument: Any) -> float:
        try:
            value = float(argument) if str(argument).isascii() else math.nan
        except ValueError:
            value = math.nan
        if not self._least <= value <= self._most and not (self._has_zero and value == 0):
            zero = "0, or " if self._has_zero and self._least > 0 else ""
            raise ValueError(f"expected {zero}a number from {self._least:g} to {self._most:g}")
        return value


class _Text(flags.ArgumentParser):
    """A text that `check` accepts, and that is not empty."""

    def __init__(self, check: Callable[[str], str] | None, hint: str):
        self._check, self.hint = check, hint

    def parse(self, argument: Any) -> str:
        text = str(argument)
        if not text.strip():
            raise ValueError("it is empty; give a value, or leave the flag out")
        return self._check(text) if self._check else text


class _List(flags.ArgumentParser):
    """`a,b,c` -> what `parse` makes of each."""

    def __init__(self, parse: Callable[[str], Any], hint: str):
        self._parse, self.hint = parse, hint

    def parse(self, argument: Any) -> list[Any]:
        if isinstance(argument, (list, tuple)):
            return list(argument)
        if not argument.strip():
            raise ValueError("it is empty; name a value, or leave the flag out")
        return [self._parse(item.strip()) for item in argument.split(",")]

    def flag_type(self) -> str:
        return "comma-separated list"


class _ListSerializer(flags.ArgumentSerializer):
    def serialize(self, value):
        return ",".join(map(str, value))


def define_integer(
    name: str, text: str, *, default: int | None = None, least: int = 1, most: int = MOST, **more: Any
) -> None:
    """A flag holding an integer from `least` to `most`."""
    flags.DEFINE(_Integer(least, most), name, default, text, serializer=flags.ArgumentSerializer(), **more)


def define_number(
    name: str, text: str, *, default: float | None = None, least: float = LEAST_RATE, most: float = MOST_RATE, has_zero: bool = False
) -> None:  # fmt: skip
    """A flag holding a number from `least` to `most`, or 0 with `has_zero`; never nan."""
    flags.DEFINE(_Number(least, most, has_zero), name, default, text, serializer=flags.ArgumentSerializer())


def define_text(name: str, text: str, *, default: str | None = None, hint: str = "TEXT") -> None:
    """A flag holding a text that is not empty."""
    flags.DEFINE(_Text(None, hint), name, default, text, serializer=flags.ArgumentSerializer())


def define_path(name: str, text: str, *, default: str | None = None) -> None:
    """A flag holding a path, ~ expanded."""
    flags.DEFINE(_Text(paths.checked, "PATH"), name, default, text, serializer=flags.ArgumentSerializer())


def define_model(name: str, text: str) -> None:
    """A flag holding a folder, ~ expanded, or a name on the hub."""
    flags.DEFINE(_Text(paths.checked_name, "FOLDER|NAME"), name, None, text, serializer=flags.ArgumentSerializer())


def define_paths(name: str, text: str) -> None:
    """A flag holding a list of paths, ~ expanded in each."""
    flags.DEFINE(_List(_item(paths.checked), "PATH,..."), name, None, text, serializer=_ListSerializer())


def define_list(name: str, text: str) -> None:
    """A flag holding a list of texts, none empty."""
    flags.DEFINE(_List(_item(str), "A,B,..."), name, None, text, serializer=_ListSerializer())


def define_choices(name: str, text: str, choices: Sequence[str]) -> None:
    """A flag holding a list of some of `choices`."""
    flags.DEFINE(_List(_item(_one_of(choices)), "A,B,..."), name, None, text, serializer=_ListSerializer())


def define_integers(name: str, text: str) -> None:
    """A flag holding a list of integers > 0."""
    flags.DEFINE(_List(_positive(int, "an integer"), "N,..."), name, None, text, serializer=_ListSerializer())


def define_numbers(name: str, text: str) -> None:
    """A flag holding a list of numbers > 0."""
    flags.DEFINE(_List(_positive(float, "a number"), "X,..."), name, None, text, serializer=_ListSerializer())


def define_enum(name: str, text: str, choices: Iterable[str], *, default: str | None = None, **more: Any) -> None:
    """A flag holding one of `choices`."""
    flags.DEFINE_enum(name, default, list(choices), text, **more)


def _one_of(choices: Sequence[str]) -> Callable[[str], str]:
    def check(item: str) -> str:
        if item not in choices:
            raise ValueError(f"expected some of {', '.join(choices)}")
        return item

    return check


def _item(check: Callable[[str], str]) -> Callable[[str], str]:
    def parse(item: str) -> str:
        if not item:
            raise ValueError("there is nothing before or after a comma; give a list such as a,b")
        try:
            return check(item)
        except ValueError as error:
            raise ValueError(f"{item}: {error}") from None

    return parse


def _positive(kind: Callable[[str], float], word: str) -> Callable[[str], float]:
    most = MOST if kind is int else MOST_RATE

    def parse(item: str) -> float:
        try:
            value = kind(item) if item.isascii() else kind("")
        except ValueError:
            raise ValueError(f"{item!r} is not {word}; give a list such as 1,2,4") from None
        if not 0 < value < math.inf:
            raise ValueError(f"{item!r} is not positive; give a list such as 1,2,4")
        if value > most or (kind is float and value < LEAST_RATE):
            raise ValueError(f"{item!r} is too large or too small; at most {most:g}")
        return value

    return parse
