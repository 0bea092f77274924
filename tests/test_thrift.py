"""The suite's shortcuts are shortcuts alone: it runs where JAX or XLA has none of what they use."""

import os
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import pytest

from tests import thrift, xla_flags


@pytest.mark.parametrize("module", [None, types.ModuleType("interpreters")])
def test_jax_without_what_the_shortcut_reaches_for(module, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax._src.interpreters", module)
    thrift.save_time_and_memory()
    assert jax.jit(lambda x: x + 1)(jnp.ones(())) == 2


def test_flags_that_xla_does_not_know_are_left_out():
    known = "--xla_cpu_parallel_codegen_split_count=1"
    assert xla_flags.known(["--xla_no_such_flag=1", known, "--xla_nor_this=true"]) == [known]


def test_a_child_that_does_not_say_leaves_out_all(monkeypatch):
    ended = types.SimpleNamespace(returncode=-6, stderr="Aborted")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: ended)
    assert xla_flags.known(xla_flags.QUICK) == []


def test_only_the_first_process_asks(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--mine")
    monkeypatch.delenv(xla_flags.ASKED)
    asked = []
    monkeypatch.setattr(xla_flags, "known", lambda flags: asked.append(flags) or ["--quick"])
    xla_flags.use_quick()
    xla_flags.use_quick()  # as a worker does, which inherits the environment
    assert len(asked) == 1 and os.environ["XLA_FLAGS"] == "--mine --quick"


class Item:
    def __init__(self, nodeid: str, marks: tuple[str, ...] = ()):
        self.nodeid, self.get_closest_marker = nodeid, lambda name: name in marks


def test_few_cases_are_spread_over_each_table():
    names = [f"tests/test_a.py::test_{name}" for name in "abcdefgh"]
    items = [Item(f"{name}[{i}]") for name in names for i in range(9)] + [Item("tests/test_a.py::test_alone")]
    every = [Item(f"tests/test_a.py::test_all[{i}]", ("every_case",)) for i in range(9)]
    found = [item.nodeid for item in thrift.few_cases([*items, *every], 3)]
    assert found[24] == "tests/test_a.py::test_alone" and found[25:] == [item.nodeid for item in every]
    chosen = [sorted(int(one[-2]) for one in found[3 * k : 3 * k + 3]) for k in range(len(names))]
    assert all(b - a == 3 for of_one in chosen for a, b in zip(of_one, of_one[1:], strict=False))
    assert len({of_one[0] for of_one in chosen}) > 1
    assert thrift.few_cases(items[:2], 3) == items[:2]
