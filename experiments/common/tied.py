"""A child that ends with its parent, however that ends: this file, run as a program, becomes the command that it is given."""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

SET_PARENT_DEATH_SIGNAL = 1  # of prctl(2)


def command(of: Sequence[str]) -> list[str]:
    """The command, as a child that gets SIGTERM when its parent ends, where the system can do that."""
    return [sys.executable, __file__, *of]


if __name__ == "__main__":
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which says so and ends
    os.execvp(sys.argv[1], sys.argv[1:])
