"""Docstrings as the API pages need them: an extension of griffe, which reads the library for mkdocstrings.

Examples (`>>> ...`) become highlighted blocks, an argument of several names (`*args, **kwargs: ...`) becomes one that names the others, and a named
tuple tells its fields.
"""

import re
from typing import Any

import griffe

BEGINS_SO = re.compile(r"^([ ]+\w+: )>", re.MULTILINE)  # a description, which Markdown would take for a quotation
EXAMPLE = re.compile(r"^([ ]*)>>> .*(?:\n[ ]*\S.*)*", re.MULTILINE)  # a paragraph that begins so, and its indent
SEVERAL = re.compile(r"^([ ]+[*]*\w+), ([*]*\w+(?:, [*]*\w+)*): ", re.MULTILINE)


def fenced(text: str) -> str:
    """The docstring with a fence around every example."""
    return EXAMPLE.sub(lambda found: f"{found[1]}```pycon\n{found[0]}\n{found[1]}```", text)


def apart(text: str) -> str:
    """The docstring with one name before each colon of its arguments, and nothing after it that Markdown reads."""
    before, args, after = text.partition("\nArgs:\n")
    after = BEGINS_SO.sub(r"\1\>", after)
    return before + args + SEVERAL.sub(lambda found: f"{found[1]}: with `{found[2]}`: ", after)


def with_fields(text: str, cls: griffe.Class) -> str:
    """The docstring of a named tuple with its fields after its first paragraph."""
    fields = [f"`{name}: {member.annotation}`" for name, member in cls.attributes.items() if member.annotation]
    first, _, rest = text.partition("\n\n")
    return "\n\n".join([first, f"Fields: {', '.join(fields)}.", rest])


class Docstrings(griffe.Extension):
    """Changes every docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = fenced(apart(obj.docstring.value))

    def on_class_members(self, *, cls: griffe.Class, **_: Any) -> None:
        if cls.docstring and "NamedTuple" in map(str, cls.bases):
            cls.docstring.value = with_fields(cls.docstring.value, cls)
