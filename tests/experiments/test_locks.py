"""Does one process at a time have a run's folder, and does the second hear who has it?"""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from etils import epath

from experiments.common import locks
from experiments.common.errors import UserError

HOLDER = """
import sys, time
from etils import epath
from experiments.common import locks
with locks.held(epath.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(100)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that has the folder."""
    child = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "held\n"
    yield child
    child.kill()
    child.wait()
    child.stdout.close()


def test_d4_the_second_process_is_told_who_holds_the_folder_and_since_when(tmp_path, holder):
    with pytest.raises(UserError) as caught, locks.held(epath.Path(tmp_path)):
        pytest.fail("two processes hold one folder")
    today = time.strftime("%Y-%m-%d")
    assert f"{tmp_path} is in use by process {holder.pid} on {os.uname().nodename} (-c), since {today}" in str(
        caught.value
    )
    assert str(caught.value).endswith("or choose another --workdir.")


def test_d4_what_a_killed_process_wrote_locks_nothing(tmp_path, holder):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert json.loads((tmp_path / ".lock").read_text())["process"] == holder.pid  # it is there, and it is stale
    with locks.held(epath.Path(tmp_path)):
        assert json.loads((tmp_path / ".lock").read_text())["process"] == os.getpid()


def test_a_process_holds_a_folder_as_often_as_it_likes_and_gives_it_back(tmp_path):
    folder = epath.Path(tmp_path)
    with locks.held(folder), locks.held(folder):
        pass
    assert not locks._held and list(tmp_path.iterdir()) == []  # nothing is left of it
    child = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "held\n"
    child.kill()
    child.wait()
    child.stdout.close()


@pytest.mark.parametrize("said", ["", "{", "[]", '{"process": "me"}', "[" * 9000, "\x1b[2J"])
def test_d6_a_holder_that_says_nothing_that_can_be_read_is_another_process(tmp_path, holder, said):
    (tmp_path / ".lock").write_text(said)
    with (
        pytest.raises(UserError, match="in use by another process, which has just begun; wait"),
        locks.held(epath.Path(tmp_path)),
    ):
        pass


def test_d8_a_link_in_the_lock_s_place_is_not_followed(tmp_path):
    (tmp_path / "outside").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "outside")
    with (
        pytest.raises(UserError, match="cannot lock .*remove it, if it is a link"),
        locks.held(epath.Path(tmp_path / "run")),
    ):
        pass
    assert (tmp_path / "outside").read_text() == "mine"
