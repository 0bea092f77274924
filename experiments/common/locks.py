"""One process at a time in a run's folder: the second is told who holds it, and since when.

The lock is the system's own (flock), which goes when its process does, however it ends: what a killed process wrote into the file locks
nothing. A bucket has no such locks.
"""

import contextlib
import datetime
import json
import os
import pathlib
import socket
import sys
from collections.abc import Iterator
from typing import Any

from etils import epath

from experiments.common import processes
from experiments.common.errors import UserError

NAME = ".lock"
OPEN = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
MOST = 10_000  # bytes of what a holder says of itself

_held: dict[str, int] = {}  # folder -> how often this process holds it


@contextlib.contextmanager
def held(folder: epath.Path) -> Iterator[None]:
    """Holds a folder, of several processes of one run the first for all; by this process again as often as it likes.

    Raises:
      UserError: when another process holds it.
    """
    place = str(folder)
    descriptor = None
    if place not in _held and "://" not in place:
        descriptor = processes.agreed_by_first(lambda: _acquire(pathlib.Path(place)))
    _held[place] = _held.get(place, 0) + 1
    try:
        yield
    finally:
        _held[place] -= 1
        if not _held[place]:
            del _held[place]
        if descriptor is not None and processes.is_first():
            _release(pathlib.Path(place) / NAME, descriptor)


def _acquire(folder: pathlib.Path) -> int | None:
    """The open file that is locked; None on a system or disk without locks, and a line says so."""
    try:
        import fcntl
    except ImportError:  # Windows
        print(f"{folder}: this system has no locks; begin no second run in it.", file=sys.stderr, flush=True)
        return None
    descriptor = _open(folder / NAME)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _is_at(folder / NAME, descriptor):  # whoever had it has just taken the file away
            os.close(descriptor)
            return _acquire(folder)
    except BlockingIOError:
        holder = _holder(descriptor)
        os.close(descriptor)
        raise UserError(
            f"{folder} is in use by {holder}; wait until it is done and give the same command again, or choose another --workdir."
        ) from None
    except OSError as error:
        print(f"{folder}: no locks here ({error.strerror}); begin no second run in it.", file=sys.stderr, flush=True)
        os.close(descriptor)
        return None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, json.dumps(_this_process()).encode())
    return descriptor


def _open(file: pathlib.Path) -> int:
    try:
        return os.open(file, OPEN, 0o666)
    except OSError as error:
        raise UserError(f"cannot lock {file}: {error.strerror}; remove it, if it is a link.") from error


def _is_at(file: pathlib.Path, descriptor: int) -> bool:
    """Whether an open file is the one of this name."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(file.lstat(), os.fstat(descriptor))
    return False


def _release(file: pathlib.Path, descriptor: int) -> None:
    """Takes the file away while it is still locked, then unlocks it."""
    with contextlib.suppress(OSError):
        if _is_at(file, descriptor):
            file.unlink()
    os.close(descriptor)


def _this_process() -> dict[str, Any]:
    since = datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    return {
        "process": os.getpid(),
        "host": socket.gethostname(),
        "since": since,
        "command": pathlib.Path(sys.argv[0]).name,
    }


def _holder(descriptor: int) -> str:
    """What the holder says of itself; of one that has only just begun, that."""
    from lora_jax.errors import ModelError
    from lora_jax.files import parse, require_fields

    try:
        fields = {"process": int, "host": str, "since": str, "command": str}
        said = require_fields(parse(os.read(descriptor, MOST), NAME), NAME, fields, required=tuple(fields))
    except (ModelError, OSError):
        return "another process, which has just begun"
    return f"process {said['process']} on {said['host']} ({said['command']}), since {said['since']}"
