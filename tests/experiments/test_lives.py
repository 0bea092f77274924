"""Nothing is lost: real runs are killed, stopped, damaged and shared out (lives.py), and the same command ends as if nothing had been."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from lora_jax.tree import flat
from tests.experiments import entries, lives


@pytest.fixture(scope="module")
def facts() -> dict:
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    command = [sys.executable, "-m", "tests.experiments.lives"]
    done = subprocess.run(command, env=environment, cwd=entries.REPOSITORY, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    return json.loads(done.stdout)


def test_kills_at_random_moments(facts):
    """A few; `python -m tests.experiments.kills` has as many as one likes, of every entry."""
    found = facts["killed"]
    assert found["ends"] == [-9] * lives.KILLS
    assert found["results"] == [facts["whole"]] * lives.KILLS  # word for word
    assert len(set(found["reached"])) > 3  # before the first block, between blocks, after the last one


@pytest.mark.parametrize("name", ["cut", "missing"])
def test_a_save_that_is_not_whole_costs_what_came_after_the_one_before(facts, name):
    found = facts[name]
    assert found["status"] == 0 and found["result"] == facts["whole"]
    assert "is damaged" in found["said"] and "going on from an earlier save" in found["said"]


def test_half_a_summary_is_made_again(facts):
    found = facts["summary"]
    assert found["status"] == 0 and found["result"] == facts["whole"] and "making it again" in found["said"]


def test_sigterm_saves_and_the_same_command_goes_on(facts):
    found = facts["stopped"]
    assert (found["status"], found["again"]) == (143, 0) and found["result"] == facts["whole"]
    assert "Terminated: saved inputs after" in found["said"] and "Traceback" not in found["said"]


@pytest.mark.parametrize("name", ["more", "two", "two lives"])
def test_other_devices_and_processes_end_alike(facts, name):
    """Begun by four devices and finished by one; begun by two processes and finished by two."""
    assert_alike(facts[name]["result"], facts["whole"])
    assert facts[name]["status"] in (0, [0, 0])


def test_all_processes_stop_together(facts):
    assert facts["two lives"]["ends"] == [[-9, -9], [143, 143]]  # of the second pair one was asked


def assert_alike(got: str, expected: str) -> None:
    """Equal but for the order of sums: sizes of products differ with the members of a device."""
    got, expected = (flat({str(i): row for i, row in enumerate(json.loads(text)["rows"])}) for text in (got, expected))
    assert got.keys() == expected.keys()
    for path, value in expected.items():
        if isinstance(value, str):
            assert got[path] == value
        else:
            np.testing.assert_allclose(got[path], value, rtol=2e-5, err_msg=str(path))


def test_a_process_that_nobody_joins_says_so():
    command = [sys.executable, str(entries.FOLDER / "linear_teacher.py"), "--preset=smoke", "--join_timeout=1"]
    alone = ["--coordinator=127.0.0.1:1", "--num_processes=2", "--process_id=1"]  # nobody listens there
    done = subprocess.run([*command, *alone], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2
    assert done.stderr.startswith(
        "error: process 1 of 2 at 127.0.0.1:1: not all processes came within 1 s (--join_timeout)"
    )
