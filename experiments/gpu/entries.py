"""An entry of `experiments` as a part: it saves, is stopped where its time is up, and the next call goes on with it."""

import hashlib
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from etils import epath

from experiments.gpu import children
from experiments.gpu.record import Record


class Asked(NamedTuple):
    """Of the command line: `python` is an interpreter with torch and peft, `deadline` in seconds since the epoch, `data_dir` holds MNIST, `texts`
    are flags for what a language model reads."""

    preset: str
    accelerator: str
    python: str
    data_dir: str | None
    deadline: float
    texts: tuple[str, ...] = ()


class Ran(NamedTuple):
    """`seconds` of one that ran whole; None where it went on from a save, which says nothing of how long a whole one takes."""

    workdir: epath.Path
    seconds: float | None


def run(
    found: Record, name: str, entry: str, named: Sequence[str], data: Sequence[str], seconds: float, **environment: str
) -> Ran | None:
    """None, and a line, where it did not end in time.

    It runs in the record's folder, in one by code and data: a run of other code, data or another device is never taken for it.

    Args:
      named: its flags but for the device, the folder and the data; `data` those that say what it reads.
      seconds: that it may take.

    Raises:
      UserError: when it fails.
    """
    about, digest = found.about, hashlib.sha256(str(data).encode()).hexdigest()[:8]
    workdir = found.folder / name / f"{about['sources']}-{digest}"
    is_resumed = workdir.is_dir() and any(workdir.glob("*/metrics.jsonl"))
    given = [f"--accelerator={about['platform']}", f"--workdir={workdir}", *named, *data]
    start = time.monotonic()
    if not children.command(entry, given, seconds, **environment):
        print(f"{name} was stopped: its time is up; the same command goes on with it.", file=sys.stderr, flush=True)
        return None
    return Ran(workdir, None if is_resumed else time.monotonic() - start)


Measured = tuple[dict[str, Any], float | None]  # the result, and the seconds of a run that was whole
