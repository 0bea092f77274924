"""A machine that is taken away: on SIGTERM training saves and the program ends; where nothing trains, it ends at once."""

import contextlib
import itertools
import os
import signal
import threading
from collections.abc import Iterator
from typing import NoReturn

import jax
from jax.experimental import multihost_utils

STATUS = 143  # 128 + SIGTERM, as shells have it
GRACE_S = 25.0  # clouds kill 30 s after SIGTERM
NOTHING_LOST = "what is saved stays"

_asked = threading.Event()
_saving = threading.Event()  # set where a save is to be waited for
_points = itertools.count()


def listen() -> None:
    """From now on SIGTERM is a request. In several processes JAX's runtime listens for it, so that all stop at one point."""
    if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _note)


@contextlib.contextmanager
def saving() -> Iterator[None]:
    """Within it SIGTERM waits for the next point that asks `is_due`; elsewhere there is nothing to save, and it ends the program at once."""
    _saving.set()
    try:
        yield
    finally:
        _saving.clear()
    if _asked.is_set():  # after the last such point
        _leave(NOTHING_LOST)


def _note(*_: object) -> None:
    if not _saving.is_set():
        _leave(NOTHING_LOST)
    if not _asked.is_set():
        timer = threading.Timer(GRACE_S, _leave, ["no save was due in time; what was saved before stays"])
        timer.daemon = True
        timer.start()
    _asked.set()


def is_due() -> bool:
    """Whether to save and stop here; all processes call it equally often."""
    if jax.process_count() == 1:
        return _asked.is_set()
    return multihost_utils.reached_preemption_sync_point(next(_points))


def stop(where: str) -> NoReturn:
    """Ends the program after a save."""
    _leave(f"saved {where}")


def _leave(what: str) -> NoReturn:
    with contextlib.suppress(OSError):
        os.write(2, f"\nTerminated: {what}, and the same command goes on from there.\n".encode())
    os._exit(STATUS)  # threads of the data and checkpoint libraries must not keep the machine waiting
