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


def test_one_case_is_of_every_function_and_another_for_each():
    names = [f"tests/test_a.py::test_{name}" for name in "abcdefgh"]
    ids = [f"{name}[{i}]" for name in names for i in range(5)] + ["tests/test_a.py::test_alone"]
    found = thrift.one_case([types.SimpleNamespace(nodeid=one) for one in ids])
    assert [item.nodeid.partition("[")[0] for item in found] == [*names, "tests/test_a.py::test_alone"]
    assert len({item.nodeid.partition("[")[2] for item in found[:-1]}) > 2
