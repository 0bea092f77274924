"""Ctrl-C, from the first moments of an entry on: imported before anything that takes time to load."""

import os
import pathlib
import signal
import sys

INTERRUPTED = 130  # 128 + SIGINT, as shells have it
ENTRIES = pathlib.Path(__file__).resolve().parents[1]


def _interrupted(*_: object) -> None:
    """Ends the program at once: raised as an exception, Ctrl-C can get lost in a callback of JAX's."""
    try:
        os.write(2, b"\nInterrupted: what is saved stays, and the same command goes on from there.\n")
    finally:
        os._exit(INTERRUPTED)  # threads of the data and checkpoint libraries must not keep the terminal waiting


def is_program() -> bool:
    """Whether this process runs an entry of ours, and not a test that imports one."""
    started = getattr(sys.modules["__main__"], "__file__", None)
    return started is not None and pathlib.Path(started).resolve().parent == ENTRIES


if is_program() and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # ignored: `nohup`, or a shell's background
    signal.signal(signal.SIGINT, _interrupted)
