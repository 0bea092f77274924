"""Are the records of a run, of which a byte, a word or a line is another, refused, made again, or read as they were written?"""

import functools
import pathlib
import tempfile

import hypothesis.strategies as st
from etils import epath

from experiments.benchmarks import record as benchmark
from experiments.common.recording import RunFolder, read_run
from experiments.gpu import record as gpu
from lora_jax.files import parse
from tests.files.faults import content, lay
from tests.fuzz.judge import fuzzed, identical, judged
from tests.fuzz.strategies import JUNK, broken_bytes, places, replaced, text_of, without

CONFIG = {"settings": {"ranks": [1, 2], "seeds": 3}, "platform": "cpu"}
SUMMARY = {"accuracy": [0.5, 0.25], "note": "a\u00e9\n", "nested": {"rows": [[1, 2.5], None, True]}, "empty": {}}
ABOUT = {
    "device_kind": "one",
    "devices": 1,
    "platform": "cpu",
    "preset": "full",
    "commit": "c",
    "sources": "s",
    "packages": {"jax": "1"},
}


@functools.cache
def written():
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(folder, "run", CONFIG)
        for step in range(3):
            run.record(phase="a", step=step, loss=0.5 / (step + 1), note=float("nan"))
        run.write("part.json", SUMMARY)
        run.finish(SUMMARY)
        benchmark.Record(run.path / "benchmark.json", ABOUT).add("title", {"seconds": 1.5})
        gpu.Record(run.path, ABOUT).add("part", result={"x": [1.0]}, seconds=2)
        return run.path.name, content(pathlib.Path(run.path))


READERS = {
    "metrics.jsonl": lambda path: list(RunFolder(str(path.parent), "run", CONFIG).records("a")),
    "part.json": lambda path: RunFolder(str(path.parent), "run", CONFIG).read("part.json"),
    "summary.json": lambda path: RunFolder(str(path.parent), "run", CONFIG).summary(),
    "config.json": lambda path: read_run(path, "run"),
    "benchmark.json": lambda path: benchmark.Record(path / "benchmark.json", ABOUT).results,
    gpu.FILE: lambda path: gpu.Record(path, ABOUT).parts,
}


def read(name, files):
    with tempfile.TemporaryDirectory() as folder:
        return READERS[name](epath.Path(lay(pathlib.Path(folder) / written()[0], files)))


@functools.cache
def as_written(name):
    return read(name, written()[1])


def is_as_written_or_made_again(found, expected):
    """Lines that are not whole do not count, and a summary or part that is not there is made again: nothing that is another is taken."""
    if isinstance(expected, list):
        return all(any(identical(line, other) for other in expected) for line in found)
    return found is None or identical(found, expected)


def ask(name, new):
    files = {**written()[1], name: new}
    judged(f"records ({name})", lambda: read(name, files), as_written(name), same=is_as_written_or_made_again, of=new)


NAMES_OF_FILES = st.sampled_from(sorted(READERS))


@fuzzed(0.05, data=st.data(), name=NAMES_OF_FILES)
def test_bytes(data, name):
    ask(name, data.draw(broken_bytes(written()[1][name])))


@fuzzed(0.05, data=st.data(), name=NAMES_OF_FILES)
def test_words(data, name):
    text = written()[1][name]
    lines = text.splitlines(keepends=True) if name.endswith("l") else [text]
    line = data.draw(st.integers(0, len(lines) - 1))
    said = parse(lines[line], name, nan=True)
    path = data.draw(st.sampled_from([*places(said), ()]))
    new = data.draw(JUNK)
    changed = without(said, path) if path and data.draw(st.booleans()) else replaced(said, path, new)
    ask(name, b"".join([*lines[:line], text_of(changed) + b"\n", *lines[line + 1 :]]))
