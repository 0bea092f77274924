"""What inputs are drawn from: values of JSON of any shape, names of any signs, numbers of any size and kind, and ways to break what is whole."""

import copy
import json
from typing import Any

import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np

SIGNS = "ab0.*?[]{}()/\\%2F~+^$|:,'\" \n\t\r\x00\x1b\x7f\u200b\u202e\u00e9\u6f22\U0001f600"
NAMES = st.one_of(
    st.text(SIGNS, max_size=8),
    st.sampled_from(
        [
            "",
            "/",
            "//",
            "re:",
            "re:(",
            "re:(a+)+$",
            "%2F",
            "kernel",
            "lora_a",
            "..",
            "*",
            "[",
            "\ud800",
            "a" * 3000,
            "all-linear",
            "0",
            "None",
        ]
    ),
)
INTEGERS = st.one_of(st.integers(-3, 40), st.sampled_from([2**31 - 1, 2**31, 2**63, -(2**63), 10**30, 10**400, -1]))
FLOATS = st.one_of(
    st.floats(), st.sampled_from([0.0, -0.0, 1e-320, 1e308, float("inf"), float("-inf"), float("nan"), 0.5, 1.0, 2.0])
)
SCALARS = st.one_of(st.none(), st.booleans(), INTEGERS, FLOATS, NAMES)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=6
)


def nested_deep(depth: int) -> Any:
    value: Any = 1
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


JUNK = JSON | st.sampled_from([nested_deep(5), nested_deep(63), nested_deep(70), nested_deep(300)])


class Odd:
    """An object that nothing here knows."""


OBJECTS = st.sampled_from(
    [Odd(), Odd, object, len, b"bytes", b"\xff", {1, 2}, frozenset("a"), range(3), 1j, np.float32(2), np.int64(3), np.bool_(True), np.array(4),
     np.array([1, 2]), np.ones((2, 2)), np.array("text"), np.array([None]), np.datetime64("2020"), jnp.asarray(3), jnp.asarray(0.5), jnp.ones(2),
     jnp.asarray(1, jnp.bfloat16), np.str_("head"), NotImplemented, ..., slice(1), iter(()), (x for x in ()), memoryview(b"a")]
)  # fmt: skip
ANYTHING = JUNK | OBJECTS


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """Where a value of JSON has fields and entries."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [each for key, inner in items for each in [(*path, key), *places(inner, (*path, key))]]


def at(value: Any, path: tuple) -> Any:
    for key in path:
        value = value[key]
    return value


def replaced(value: Any, path: tuple, new: Any) -> Any:
    """A copy with another value at a place."""
    if not path:
        return new
    found = copy.deepcopy(value)
    at(found, path[:-1])[path[-1]] = new
    return found


def without(value: Any, path: tuple) -> Any:
    """A copy that lacks a place."""
    found = copy.deepcopy(value)
    del at(found, path[:-1])[path[-1]]
    return found


def broken_bytes(content: bytes) -> st.SearchStrategy[bytes]:
    """A file's content after one accident: bits turned, a part cut out, put in, doubled or exchanged; never the content itself."""
    size = len(content)
    where = st.integers(0, max(0, size - 1))
    length = st.one_of(st.just(1), st.integers(1, 16), st.integers(1, max(1, size)))

    def flipped(at: int, bit: int) -> bytes:
        return content[:at] + bytes([content[at] ^ (1 << bit)]) + content[at + 1 :] if size else b"\0"

    ways = [
        st.builds(flipped, where, st.integers(0, 7)),
        st.builds(lambda at: content[:at], where),
        st.builds(lambda at, n: content[:at] + content[at + n :], where, length),
        st.builds(lambda at, new: content[:at] + new + content[at:], where, st.binary(min_size=1, max_size=9)),
        st.builds(lambda at, n: content[:at] + content[at : at + n] + content[at:], where, length),
        st.builds(
            lambda at, n: content[:at] + content[at + n : at + 2 * n] + content[at : at + n] + content[at + 2 * n :],
            where,
            length,
        ),
        st.builds(
            lambda at, new: content[:at] + new + content[at + len(new) :], where, st.binary(min_size=1, max_size=9)
        ),
        st.sampled_from(
            [
                b"",
                b"\0" * size,
                b"null",
                b"{}",
                b"[" * 100_000,
                b"\xff" * 40,
                b"\xef\xbb\xbf" + content,
                content + b"\n{}",
            ]
        ),
    ]
    return st.one_of(*ways).filter(lambda new: new != content)


def text_of(value: Any) -> bytes:
    """The value as JSON, lone halves of characters and what is no number too, as Python writes it."""
    return json.dumps(value).encode()
