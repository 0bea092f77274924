"""Processes that measure, and that end with the one that asks."""

import json
import os
import pathlib
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

from experiments.common import tied
from experiments.common.errors import UserError
from experiments.gpu.worker import MARK, Order

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
ANSWER_S = 60.0  # that an interpreter gets to start
SAVING_S = 15.0  # what a command that is stopped gets, to save
MEMORY_SHARE = "0.5"  # of the device, for JAX: PyTorch measures beside it


def start(command: Sequence[str], own: Mapping[str, str] | None = None, **more: Any) -> subprocess.Popen:
    """A child that gets SIGTERM when this process ends, however it ends, where the system can do that; `own` is added to its environment."""
    environment = {"XLA_PYTHON_CLIENT_MEM_FRACTION": MEMORY_SHARE, **os.environ, **(own or {})}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(tied.command(command), env=environment, **more)


def command(entry: str, named: Sequence[str], seconds: float, **environment: str) -> bool:
    """Whether an entry of `experiments` ended by itself; one that takes too long is told to save and stop.

    Raises:
      UserError: where it failed.
    """
    whole = [sys.executable, str(REPOSITORY / "experiments" / entry), *named]
    child = start(whole, environment)
    try:
        status = child.wait(max(1.0, seconds - SAVING_S))
    except subprocess.TimeoutExpired:
        child.terminate()
        try:
            child.wait(SAVING_S)
        except subprocess.TimeoutExpired:
            child.kill()
        return False
    finally:
        child.kill()  # without effect on one that has ended
    if status:
        raise UserError(f"{' '.join(whole[1:])} ended with status {status}; see what it said.")
    return True


def listen(order: Order, hear: Callable[[dict[str, Any]], None]) -> int | None:
    """Starts a worker and passes on what it says until it ends; its exit status, None where the deadline came first and it was ended."""
    command = [sys.executable, "-m", "experiments.gpu.worker", json.dumps(order._asdict())]
    child = start(command, stdout=subprocess.PIPE, text=True, errors="replace")
    said: queue.Queue[str | None] = queue.Queue()
    reader = threading.Thread(target=_read, args=(child.stdout, said), daemon=True)
    reader.start()
    try:
        while (line := said.get(timeout=max(0.1, order.deadline - time.time()))) is not None:
            if line.startswith(MARK):
                hear(json.loads(line.removeprefix(MARK)))
            else:
                print(line, end="", flush=True)
        return child.wait()
    except queue.Empty:
        return None
    finally:
        child.kill()
        child.wait()
        reader.join()
        child.stdout.close()


def _read(lines: IO[str], said: "queue.Queue[str | None]") -> None:
    try:
        for line in lines:
            said.put(line)
    finally:
        said.put(None)


def has_peft(python: str, *, is_named: bool) -> bool:
    """Whether that interpreter has torch and peft, without waiting for them to be imported.

    Raises:
      UserError: where the interpreter was named, and is none.
    """
    look = "import importlib.util as u; print('peft', all(map(u.find_spec, ('torch', 'peft', 'transformers'))))"
    try:
        said = subprocess.run([python, "-c", look], capture_output=True, text=True, timeout=ANSWER_S).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        if is_named:
            raise UserError(f"--peft_python={python} cannot be run ({error}); name a Python interpreter.") from error
        return False
    if is_named and not said.startswith("peft "):
        raise UserError(f"--peft_python={python} is no Python interpreter; name one that has torch and peft.")
    return said.strip() == "peft True"
