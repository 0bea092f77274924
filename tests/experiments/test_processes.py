"""What one of several processes does when another fails, or when it fails itself; and what SIGTERM ends."""

import os
import signal

import jax
import pytest

from experiments.common import cli, preemption, processes
from experiments.common.errors import UserError


class Left(BaseException):
    """In place of the end of this process."""


@pytest.fixture
def leaves(monkeypatch):
    """`os._exit` raises Left."""

    def leave(status):
        raise Left(status)

    monkeypatch.setattr(os, "_exit", leave)


@pytest.fixture
def several(monkeypatch):
    """A run of several processes, as far as this one asks."""
    monkeypatch.setattr(processes, "_are_several", lambda: True)


@pytest.mark.parametrize(
    ("problem", "kind"), [(UserError("no."), UserError), (OSError(28, "disk full", "a/b"), OSError)]
)
def test_what_the_first_process_meets_all_of_them_raise(problem, kind, several, monkeypatch):
    def look():
        raise problem

    said = []
    monkeypatch.setattr(processes, "_broadcast", lambda value: said.append(value) or value)
    monkeypatch.setattr(processes, "is_first", lambda: True)
    with pytest.raises(kind) as first:
        processes.agreed_by_first(look)
    monkeypatch.setattr(processes, "_broadcast", lambda value: said[0])
    monkeypatch.setattr(processes, "is_first", lambda: False)
    with pytest.raises(kind) as other:
        processes.agreed_by_first(lambda: pytest.fail("only the first looks"))
    assert str(first.value) == str(other.value) == str(problem)


def test_of_several_processes_one_that_fails_waits_for_nobody(several, leaves, capsys):
    """JAX's own way out is a barrier, at which the others, who wait for this one, never come."""
    with pytest.raises(Left, match="2"):
        processes.leave("error: no.", 2)
    assert capsys.readouterr().err == "error: no.\n"


def test_one_alone_ends_as_programs_do():
    with pytest.raises(SystemExit) as end:
        processes.leave("error: no.", 2)
    assert end.value.code == 2


@pytest.mark.parametrize(
    "text", ["UNKNOWN: Gloo all-reduce failed: Connection closed by peer", "RESOURCE_EXHAUSTED: 9 GB"]
)
def test_the_others_say_that_one_has_ended(text, several, leaves, monkeypatch, capsys):
    error = jax.errors.JaxRuntimeError(text + "\nmore")

    def main():
        raise error

    if "RESOURCE" in text:  # its own
        with pytest.raises(Left, match="2"):
            cli.guarded(main)
        assert capsys.readouterr().err.startswith(f"error: memory is used up ({text}); give fewer seeds")
        return
    with pytest.raises(Left, match="2"):
        cli.guarded(main)
    said = capsys.readouterr().err
    assert said.startswith(f"error: another process of this run has ended ({text})") and "more" not in said


@pytest.mark.parametrize(
    ("message", "part"),
    [("DEADLINE_EXCEEDED: barrier timed out", "not all processes came within 9 s"), ("begun already", "begun already")],
)
def test_why_processes_cannot_be_joined(message, part, monkeypatch):
    def initialize(**how):
        raise RuntimeError(message)

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    with pytest.raises(UserError, match=part) as error:
        processes.join("localhost:1", 2, 0, on_tpu=False, timeout_s=9)
    assert ("came within" in str(error.value)) == ("came within" in part)


def test_sigterm_waits_for_a_save_only_where_one_will_come(leaves, capfd):
    with pytest.raises(Left, match=str(preemption.STATUS)):
        preemption._note(signal.SIGTERM, None)
    assert "what is saved stays, and the same command goes on from there" in capfd.readouterr().err


def test_sigterm_during_training_is_noted(leaves, monkeypatch):
    monkeypatch.setattr(preemption, "_asked", type(preemption._asked)())
    monkeypatch.setattr(preemption.threading, "Timer", lambda *args: type("", (), {"start": lambda self: None})())
    with pytest.raises(Left, match=str(preemption.STATUS)), preemption.saving():  # none came after it
        assert not preemption.is_due()
        preemption._note(signal.SIGTERM, None)
        assert preemption.is_due()
