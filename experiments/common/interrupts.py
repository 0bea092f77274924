"""Ctrl-C, from the first moments of an entry on: imported before anything that takes time to load."""

import os
import pathlib
import signal
import sys
import threading

INTERRUPTED = 130  # 128 + SIGINT, as shells have it
ENTRIES = pathlib.Path(__file__).resolve().parents[1]
_first = threading.Lock()


def _interrupted(*_: object) -> None:
    """Ends the program at once: raised as an exception, Ctrl-C can get lost in a callback of JAX's."""
    if not _first.acquire(blocking=False):
        return  # it is being said
    try:
        os.write(2, b"\nInterrupted: what is saved stays, and the same command goes on from there.\n")
    finally:
        os._exit(INTERRUPTED)  # threads of the data and checkpoint libraries must not keep the terminal waiting


def _watch(signals: int) -> None:
    """Python runs a handler between two steps of the main thread's, which a compiler may keep for minutes: here nothing waits for it."""
    while noted := os.read(signals, 1):
        if noted[0] == signal.SIGINT:
            _interrupted()


def is_program() -> bool:
    """Whether this process runs an entry of ours, and not a test that imports one."""
    started = getattr(sys.modules["__main__"], "__file__", None)
    return started is not None and pathlib.Path(started).resolve().parent == ENTRIES


def take_over() -> None:
    """From now on Ctrl-C says one line and ends the program; where it is ignored (`nohup`, a child of ours) it stays so."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        return
    signal.signal(signal.SIGINT, _interrupted)
    if sys.platform != "win32":
        signals, noted = os.pipe()
        os.set_blocking(noted, False)
        signal.set_wakeup_fd(noted, warn_on_full_buffer=False)
        threading.Thread(target=_watch, args=(signals,), daemon=True).start()


if is_program():
    take_over()
