"""`--help`: what an entry is for, and its own flags with their defaults."""

import pathlib
import re
import shutil
import sys
import textwrap

from absl import flags

ASKED = ("h", "help", "helpshort", "helpfull")


def is_asked(arguments: list[str]) -> str | None:
    """Which of the flags that ask for help is there, before a `--`.

    >>> is_asked(["--seeds=2", "-h"]), is_asked(["--", "--help"]) is None
    ('h', True)
    """
    for argument in arguments:
        if argument == "--":
            return None
        name = argument.lstrip("-")
        if argument.startswith("-") and name in ASKED:
            return name
    return None


def text(asked: str = "help") -> str:
    """What to print; `helpfull` adds absl's own flags."""
    entry = pathlib.Path(sys.argv[0]).name
    parts = [(sys.modules["__main__"].__doc__ or "").strip(), f"flags of {entry}:", *map(_flag, own())]
    if asked == "helpfull":
        parts += ["flags of every program of absl:", *map(_flag, _of_absl())]
    else:
        parts.append("--helpfull shows absl's flags, too.")
    return "\n\n".join(parts)


def own() -> list[flags.Flag]:
    """The entry's flags, in the order in which they are defined; libraries define some, too."""
    return [flag for flag in _all() if _module(flag).startswith("experiments.") or _module(flag) == sys.argv[0]]


def _of_absl() -> list[flags.Flag]:
    return [flag for flag in _all() if _module(flag).startswith("absl.")]


def _all() -> list[flags.Flag]:
    return list({id(flags.FLAGS[name]): flags.FLAGS[name] for name in flags.FLAGS}.values())


def _module(flag: flags.Flag) -> str:
    """Where it is defined; absl calls the program itself by its path."""
    return str(flags.FLAGS.find_module_defining_flag(flag.name))


def _flag(flag: flags.Flag) -> str:
    default = "" if flag.default is None else f" (default: {_default(flag)})"
    return f"  {_head(flag)}\n" + textwrap.indent(_wrapped(f"{_help(flag)}{default}"), "      ")


def _help(flag: flags.Flag) -> str:
    """Without the choices that absl puts before it: the head has them."""
    return re.sub(r"^<[^>]*>: ", "", flag.help)


def _default(flag: flags.Flag) -> str:
    return str(flag.default).lower() if flag.boolean else str(flag.default) or "''"


def _head(flag: flags.Flag) -> str:
    if flag.boolean:
        return f"--[no]{flag.name}"
    choices = getattr(flag.parser, "enum_values", None)
    return f"--{flag.name}={'|'.join(choices) if choices else getattr(flag.parser, 'hint', 'VALUE')}"


def _wrapped(line: str) -> str:
    width = max(60, min(120, shutil.get_terminal_size((100, 24)).columns)) - 6
    return textwrap.fill(" ".join(line.split()), width, break_long_words=False, break_on_hyphens=False)
