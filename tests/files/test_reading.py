"""Is JSON of any shape read as it is, or refused by one sentence?"""

import json

import numpy as np
import pytest
import safetensors.numpy

from lora_jax import files
from lora_jax.errors import ModelError, PeftError


def refused(text, match, **kwargs):
    with pytest.raises(ModelError, match=match) as caught:
        files.parse(text, "file.json", **kwargs)
    assert str(caught.value).startswith("file.json cannot be read as JSON (") and "\n" not in str(caught.value)


def test_what_is_json_is_read():
    value = {"a": [1, 2.5, None, True, "ä", {"b": {}}], "c": -0.0}
    assert files.parse(json.dumps(value), "file") == value
    assert files.parse(json.dumps(value).encode(), "file") == value


@pytest.mark.parametrize(
    "brackets", ["[" * 100_000, "[" * 100_000 + "]" * 100_000, '{"a":' * 100_000, "[" * 65 + "]" * 65]
)
def test_d6_what_is_nested_too_deep_is_a_sentence(brackets):
    refused(brackets, "nested more than 64 deep|Expecting")


def test_what_is_as_deep_as_may_be_is_read():
    assert files.parse("[" * 64 + "1" + "]" * 64, "file")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "Expecting value"),
        ("{", "Expecting property name"),
        ('{"a": 1, "b": 2, "a": 1}', '"a" is there twice'),
        ('[{"x": {"y": 1, "y": 1}}]', '"y" is there twice'),
        ("[NaN]", "NaN is not JSON"),
        ("[-Infinity]", "-Infinity is not JSON"),
        ("[1e999]", "1e999 is too large"),
        ('["\\ud800"]', "surrogates not allowed"),
        ('{"\\udfff": 1}', "surrogates not allowed"),
        (b"\xff\xfe", "can't decode byte"),
        ("1" * 5000, "digits"),
        ("[1] 2", "Extra data"),
    ],
)
def test_d6_d8_what_is_no_json_or_has_a_key_twice_is_a_sentence(text, match):
    refused(text, match)


def test_nan_is_read_where_python_wrote_it():
    (value,) = files.parse("[NaN]", "file", nan=True)
    assert np.isnan(value)


def test_a_file_that_is_larger_than_asked_for_is_not_read(tmp_path):
    (tmp_path / "file").write_text("[" + "1," * 1000 + "1]")
    assert len(files.read_json(tmp_path / "file")) == 1001
    with pytest.raises(PeftError, match="more than 100 bytes"):
        files.read_json(tmp_path / "file", max_bytes=100, error=PeftError)


def test_a_file_that_is_not_there_and_a_folder_are_sentences(tmp_path):
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(ModelError, match=r"cannot be read \("):
            files.read_json(path)


@pytest.mark.parametrize(
    ("value", "kind", "fits"),
    [
        (1, int, True), (True, int, False), (1.0, int, False), ("1", int, False),
        (1, float, True), (1.5, float, True), (True, float, False), (10**400, float, False), (float("nan"), float, False),
        ("false", bool, False), (False, bool, True), (0, bool, False),
        (None, int | None, True), ([], str | None, False), ([1, "a"], list[int], False), ([], list[int], True),
        ({"a": 1}, dict[str, int], True), ({"a": "b"}, dict[str, int], False), ([], dict, False),
    ],
)  # fmt: skip
def test_d7_types_of_fields(value, kind, fits):
    assert files.fits(value, kind) is fits
    if not fits:
        with pytest.raises(ModelError, match=r"^file: field is .*; expected "):
            files.require_fields({"field": value}, "file", {"field": kind})


@pytest.mark.parametrize("value", [[], 1, None, "text", True])
def test_d6_what_is_no_object_is_a_sentence(value):
    with pytest.raises(ModelError, match=r"^file holds .*; expected an object"):
        files.require_fields(value, "file", {})


def test_a_field_that_is_missing_is_named():
    with pytest.raises(ModelError, match=r"^file lacks 'b'\.$"):
        files.require_fields({"a": 1}, "file", {}, required=("a", "b"))


def test_d8_terminal_escapes_in_a_message_are_spelt_out():
    with pytest.raises(ModelError) as caught:
        files.require_fields({"a": "\x1b[2Jred"}, "fi\x1b[31mle", {"a": int})
    assert "\x1b" not in str(caught.value) and "fi\\x1b[31mle" in str(caught.value)


# Tensors


def twice(tmp_path):
    """A file whose header has one name twice: the format's own reader takes one of them."""
    content = safetensors.numpy.save({"a": np.zeros(2, np.float32), "b": np.ones(2, np.float32)})
    (tmp_path / "file.safetensors").write_bytes(content.replace(b'"b"', b'"a"'))
    return tmp_path / "file.safetensors"


def test_d8_a_tensor_that_is_twice_in_a_file_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r'cannot be read as safetensors \(its header .*"a" is there twice'):
        files.read_safetensors(twice(tmp_path))


def test_tensors_come_in_the_order_of_their_names(tmp_path):
    """The format's own reader gives another order in every process, and a tree's report would follow it."""
    names = [f"layer.{i:02}" for i in range(50)]
    safetensors.numpy.save_file({name: np.zeros(1, np.float32) for name in names}, tmp_path / "file.safetensors")
    assert list(files.read_safetensors(tmp_path / "file.safetensors")) == names
