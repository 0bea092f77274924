"""The suite's shortcuts are shortcuts alone: it runs where JAX or XLA has none of what they use."""

import os
import pathlib
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
    def __init__(self, nodeid: str):
        self.nodeid = nodeid


def chosen(table: str, functions: int = 1, count: int = 9, most: int = 3) -> list[list[int]]:
    """Which cases of each function are run."""
    names = [f"{table}::test_{name}" for name in "abcdefgh"[:functions]]
    found = thrift.few_cases([Item(f"{name}[{i}]") for name in names for i in range(count)], most)
    return [
        sorted(int(one.nodeid[:-1].partition("[")[2]) for one in found if one.nodeid.startswith(name)) for name in names
    ]


def test_few_cases_are_spread_over_each_table():
    of_each = chosen("tests/test_a.py", 8)
    assert all(b - a == 3 for of_one in of_each for a, b in zip(of_one, of_one[1:], strict=False))
    assert len({of_one[0] for of_one in of_each}) > 1
    alone = [
        Item("tests/test_a.py::test_alone"),
        Item("tests/test_a.py::test_two[0]"),
        Item("tests/test_a.py::test_two[1]"),
    ]
    assert thrift.few_cases(alone, 3) == alone


@pytest.mark.parametrize("count", range(3, 40))
def test_the_case_that_one_stack_runs_is_none_of_the_two_of_the_other(count):
    for two, one in zip(*(chosen("tests/test_a.py", 8, count, most) for most in (2, 1)), strict=True):
        assert len({*two, *one}) == 3


@pytest.mark.parametrize("table", thrift.WHOLE)
def test_what_is_no_table_of_cases_keeps_them_all(table):
    assert chosen(table) == [list(range(9))] and (pathlib.Path(__file__).parents[1] / table).exists()
