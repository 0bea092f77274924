"""Real runs that are killed, stopped, damaged and shared out, in a process of its own: prints facts as JSON, for test_lives.py to judge.

Runs are forks of this process, which has imported everything and started nothing: each costs what it computes.
"""

import json
import os
import pathlib
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

import jax

from experiments.common import phases, recording
from experiments.linear import figures
from experiments.linear import study as linear
from lora_jax import checkpoint
from tests import thrift
from tests.experiments import entries, forks
from tests.experiments.forks import wait
from tests.experiments.one_part import ONE_PART

ENTRY = ("rank_sweep.py", "--task=linear_teacher", "--preset=smoke")
SETTINGS = linear.Settings(ranks=(2,), seeds=2, steps=60, blocks=6, **ONE_PART)
KILLS = 8


def fork(workdir: pathlib.Path, *more: str, devices: int = 1, signalled: tuple[int, int] | None = None) -> int:
    """Begins a run that saves after every block; its process id. What it prints goes to `workdir`.txt.

    Args:
      signalled: (block, signal): what it gets once that block is recorded and before it is saved.
    """
    if pid := forks.begun(workdir):
        return pid
    jax.config.update("jax_num_cpu_devices", devices)
    linear.PRESETS["smoke"] = SETTINGS
    phases.SAVE_EVERY_S = 0.0
    figures.draw = lambda summary, folder: []  # half of such a run's time, and after all that could be lost
    if signalled is not None:
        recording.RunFolder.record = signalling(*signalled)
    status = entries.execute(ENTRY[0], *ENTRY[1:], f"--workdir={workdir}", *more)
    os._exit(status)


def signalling(block: int, number: int) -> Callable[..., None]:
    """`RunFolder.record` that sends this process a signal once a block is recorded: the moment is the same on a machine of any speed."""
    record = recording.RunFolder.record

    def record_and_send(folder: recording.RunFolder, **values) -> None:
        record(folder, **values)
        if values["step"] == block:
            os.kill(os.getpid(), number)
            # JAX looks for a SIGTERM once a second, and the processes have yet to agree on where to stop.
            if jax.process_count() > 1:
                time.sleep(5)

    return record_and_send


def is_over(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def recorded(workdir: pathlib.Path) -> int:
    """The lines of a run's metrics.jsonl: one before training, and one for each block."""
    return sum(len(path.read_text().splitlines()) for path in workdir.glob("*/metrics.jsonl"))


def said(workdir: pathlib.Path) -> str:
    """All that runs in this folder have printed."""
    return "\n".join(path.read_text() for path in sorted(workdir.parent.glob(f"{workdir.name}.*.txt")))


def result(workdir: pathlib.Path) -> str:
    """The summary, word for word; its absence as the reason."""
    found = list(workdir.glob("*/summary.json"))
    return found[0].read_text() if len(found) == 1 else f"{len(found)} summaries\n{said(workdir)}"


def killed(home: pathlib.Path, seconds: float, rng: random.Random) -> dict:
    """Runs killed at a random moment after a random block of their life, then finished by the same command."""
    ends, reached = [], []
    for trial in range(KILLS):
        workdir, end = home / f"killed{trial}", 0
        lines, pause = rng.randrange(SETTINGS.blocks + 1), rng.uniform(0, 0.3 * seconds)
        while end == 0:  # a run that was over before its moment came is begun anew, and dies sooner
            shutil.rmtree(workdir, ignore_errors=True)
            pid = fork(workdir)
            while recorded(workdir) < lines and not is_over(pid):
                time.sleep(0.01)
            time.sleep(pause)
            os.kill(pid, signal.SIGKILL)
            end, pause = wait(pid), 0.5 * pause
        ends.append(end)
        reached.append(recorded(workdir))
        assert wait(fork(workdir)) == 0, said(workdir)
    return {"ends": ends, "reached": reached, "results": [result(home / f"killed{trial}") for trial in range(KILLS)]}


def damaged(home: pathlib.Path) -> dict:
    """What becomes of a run whose newest save, or summary, is not whole."""
    facts = {}
    for name in ("cut", "missing"):
        workdir = home / name
        wait(fork(workdir, signalled=(5, signal.SIGKILL)))
        saves = next(workdir.glob("*/phases/inputs"))
        newest = saves / str(checkpoint.latest_step(saves))
        files = [path for path in newest.rglob("*") if path.is_file()]
        largest = max(files, key=lambda path: path.stat().st_size)
        if name == "cut":
            os.truncate(largest, largest.stat().st_size // 2)
        else:
            largest.unlink()
        facts[name] = {"status": wait(fork(workdir)), "result": result(workdir), "said": said(workdir)}
    workdir = home / "summary"
    assert wait(fork(workdir)) == 0
    path = next(workdir.glob("*/summary.json"))
    path.write_text(path.read_text()[:100])
    facts["summary"] = {"status": wait(fork(workdir)), "result": result(workdir), "said": said(workdir)}
    return facts


def together(workdir: pathlib.Path, signalled: Sequence[tuple[int, int] | None] = (None, None)) -> list[int]:
    """The exit statuses of two processes of one run over loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"--coordinator=127.0.0.1:{port}", "--num_processes=2", "--join_timeout=60"
    pids = [fork(workdir, *address, f"--process_id={i}", signalled=signalled[i]) for i in range(2)]
    return [wait(pid) for pid in pids]


def two_processes(home: pathlib.Path) -> dict:
    """The same run by two processes; then killed, begun again, stopped by SIGTERM to one of them, and begun again."""
    workdir, facts = home / "two", {}
    facts["two"] = {"status": together(workdir), "result": result(workdir)}
    workdir = home / "two_lives"
    ends = [together(workdir, [(2, signal.SIGKILL)] * 2), together(workdir, [None, (3, signal.SIGTERM)])]
    facts["two lives"] = {"ends": ends, "status": together(workdir), "result": result(workdir)}
    return facts


def main() -> None:
    thrift.save_time_and_memory()
    with tempfile.TemporaryDirectory() as folder:
        home = pathlib.Path(folder)
        jax.config.update("jax_compilation_cache_dir", str(home / "cache"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        wait(fork(home / "warm"))
        started = time.monotonic()
        assert wait(fork(home / "whole")) == 0, said(home / "whole")
        seconds = time.monotonic() - started
        facts = {"whole": result(home / "whole"), "seconds": seconds}
        facts["killed"] = killed(home, seconds, random.Random(0))
        facts |= damaged(home)
        status = wait(fork(home / "stopped", signalled=(4, signal.SIGTERM)))
        facts["stopped"] = {"status": status, "said": said(home / "stopped"), "again": wait(fork(home / "stopped"))}
        facts["stopped"]["result"] = result(home / "stopped")
        wait(fork(home / "more", devices=4, signalled=(5, signal.SIGKILL)))
        facts["more"] = {"status": wait(fork(home / "more")), "result": result(home / "more")}
        facts |= two_processes(home)
    json.dump(facts, sys.stdout)


if __name__ == "__main__":
    main()
