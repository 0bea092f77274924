"""The errors this library raises for a user's mistake: each says what, where, what was expected and what to do."""

import difflib
from collections.abc import Iterable
from typing import Any

from lora_jax.keys import plain

LONGEST = 1500  # characters of a sentence


class LoRAError(ValueError):
    """Base class of every error that lora_jax raises on purpose. Paths in its message are as patterns have them (`lora_jax.keys`)."""

    def __str__(self) -> str:
        return sentence(plain(super().__str__()))


class ConfigError(LoRAError):
    """A LoRAConfig that cannot mean anything."""


class TargetError(LoRAError):
    """A pattern, or the name of a head, that selects nothing or is ambiguous."""


class TreeError(LoRAError):
    """A parameter tree that is not what the call needs."""


class OptimizerError(LoRAError):
    """An optimiser that the call cannot use."""


class CheckpointError(LoRAError):
    """A checkpoint that is absent, damaged, or belongs to another base or config."""


class DamagedError(CheckpointError):
    """A checkpoint of which a file is missing, cut short or changed."""


class PeftError(LoRAError):
    """An adapter folder that cannot be read as asked, or an adapter that PEFT's format cannot hold."""


class MeshError(LoRAError):
    """A mesh that does not match the devices, or what does not fit on it."""


class ModelError(LoRAError):
    """A model whose configuration, input or files cannot be used."""


class UnsavedStateWarning(UserWarning):
    """A model has state beside its parameters, as batch statistics, and a save is not told what becomes of it."""


class CustomDerivativeWarning(UserWarning):
    """An adapted weight goes into a function with a derivative of its own, which holds for the base alone."""


def sentence(text: str) -> str:
    """A text on one line, which a terminal only shows, however odd and long what it quotes: control characters, as a tensor's name in a file may
    have them, are spelt out, and the midst of what is too long is left out.

    >>> print(sentence("layer\x1b[2J"))
    layer\\x1b[2J
    """
    if len(text) > 4 * LONGEST:
        text = f"{text[: 2 * LONGEST]}{text[-2 * LONGEST :]}"
    told = printable(text)
    return told if len(told) <= LONGEST else f"{told[: LONGEST // 2]} ... {told[-LONGEST // 2 :]}"


def printable(text: str) -> str:
    """A text whose signs a terminal only shows.

    >>> print(printable("a" + chr(27) + "b"))
    a\\x1bb
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shown(value: Any) -> str:
    """A caller's value as a message quotes it, whatever it is: cut where it is long.

    >>> shown("text"), shown("a" * 500)[-6:]
    ("'text'", 'aaa...')
    """
    try:
        text = repr(value)
    except Exception:  # an integer of 5,000 digits, an array that is deleted, a user's class
        return f"of {type(value).__name__}"
    return text if len(text) <= LONGEST // 10 else f"{text[: LONGEST // 10]}..."


def first_line(error: BaseException) -> str:
    """The first line of another library's message, to be quoted in a sentence of ours.

    >>> first_line(OSError("disk full\\nsecond line")), first_line(KeyError())
    ('disk full', 'KeyError')
    """
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def closest(wanted: str, existing: Iterable[str], n: int = 3) -> str:
    """The `n` names most like `wanted`, for an error message.

    A path is judged by its best-matching ending, so that "valeu" finds "layer_0/value".

    >>> closest("valeu", ["layer_0/query", "layer_0/value", "layer_1/value"], n=2)
    'layer_0/value, layer_1/value'
    """

    def likeness(path: str) -> float:
        parts = path.split("/")
        endings = ("/".join(parts[i:]) for i in range(len(parts)))
        return max(difflib.SequenceMatcher(None, wanted, ending).ratio() for ending in endings)

    ranked = sorted(set(existing), key=lambda path: (-likeness(path), path))
    return ", ".join(ranked[:n]) if ranked else "(none)"
