"""Is each flag of each entry, given any text, refused by one sentence or kept as Python reads it?"""

import contextlib
import functools
import io
import math
import os
import pathlib
import runpy
from unittest import mock

import hypothesis.strategies as st
from absl import flags

from experiments.common import cli
from experiments.common.errors import UserError
from tests.fuzz.judge import fuzzed, judged
from tests.fuzz.strategies import NAMES

HERE = pathlib.Path(cli.__file__).parents[1]
ENTRIES = sorted(path.name for path in HERE.glob("*.py") if path.name != "__init__.py")
YES, NO = ("true", "t", "1", "yes", "y"), ("false", "f", "0", "no", "n")
TEXTS = st.one_of(
    NAMES,
    st.integers(-5, 5).map(str),
    st.floats().map(str),
    st.sampled_from(
        ["1e999", "0x10", "1_000", "\u0661", "nan", "-inf", "1" * 5000, "1,2", "1,,2", ",", " 3 ", "+4", "true", "no", "TRUE",
         "~", "~nobody/x", "a\0b",
         "http://a", "gs://b", "/dev/null", "x" * 300, "1e-3,1e-2", "--seeds=2", "\udcff"]
    ),
)  # fmt: skip


@functools.cache
def flags_of(entry):
    """The entry's own flags, apart from those of all other tests."""
    own = flags.FlagValues()
    defined = {
        name: functools.partial(getattr(flags, name), flag_values=own)
        for name in ("DEFINE", "DEFINE_enum", "DEFINE_bool")
    }
    with mock.patch.multiple(flags, **defined):
        runpy.run_path(str(HERE / entry), run_name="entry")
    assert len(own) > 3
    return own


def parsed(entry, arguments):
    """The values that the flags have then; UserError, with what is printed, where the entry would end."""
    own, said = flags_of(entry), io.StringIO()
    own.unparse_flags()
    for name in own:
        own[name].value, own[name].present = own[name].default, 0
    with mock.patch.object(flags, "FLAGS", own), contextlib.redirect_stderr(said):
        try:
            rest = cli._parse([entry, *arguments])
        except SystemExit as end:
            assert end.code == 1
            raise UserError(said.getvalue().removesuffix("\n")) from None
    return {name: own[name].value for name in own if own[name].present}, rest


def as_python_reads_it(flag, text):
    """The value by the plainest route; None where this says nothing of it."""
    kind = type(flag.parser).__name__
    if kind == "_Integer":
        return int(text)
    if kind == "_Number":
        return float(text)
    path = os.path.expanduser if getattr(flag.parser, "hint", "").startswith(("PATH", "FOLDER")) else str  # noqa: PTH111
    if kind == "_List":
        one = {"N,...": int, "X,...": float}.get(flag.parser.hint, path)
        return [one(item.strip()) for item in text.split(",")]
    return path(text)


def is_what_was_given(entry, name, text):
    def same(found, _):
        values, rest = found
        flag = flags_of(entry)[name]
        if len(rest) > 1 or set(values) != {flag.name}:
            return False
        value = values[flag.name]
        if flag.boolean:
            return value == (text.lower() in YES) and text.lower() in YES + NO
        is_sound = not isinstance(value, float) or math.isfinite(value)
        return is_sound and value == as_python_reads_it(flag, text) and value not in ("", [])

    return same


@fuzzed(0.06, data=st.data(), entry=st.sampled_from(ENTRIES), text=TEXTS)
def test_a_flag_of_any_value(data, entry, text):
    name = data.draw(st.sampled_from(sorted(flags_of(entry))))
    judged(
        "flags",
        lambda: parsed(entry, [f"--{name}={text}"]),
        same=is_what_was_given(entry, name, text),
        of=(entry, name, text),
    )


@fuzzed(
    0.04,
    entry=st.sampled_from(ENTRIES),
    arguments=st.lists(NAMES | TEXTS.map(lambda text: f"--{text}"), min_size=1, max_size=3),
)
def test_arguments_of_any_text(entry, arguments):
    """What is not refused says nothing at all, or is left over, which the entry refuses."""

    def says_nothing_or_is_left_over(found, _):
        values, rest = found
        return bool(rest[1:] or values) or set(arguments) <= {"--", "--seeds=2"}

    judged("flags", lambda: parsed(entry, arguments), same=says_nothing_or_is_left_over, of=(entry, arguments))
