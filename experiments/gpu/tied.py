"""`python -m experiments.gpu.tied COMMAND ...` becomes the command, and gets SIGTERM when its parent ends, where the system can do that."""

import ctypes
import os
import signal
import sys

SET_PARENT_DEATH_SIGNAL = 1  # of prctl(2)

if __name__ == "__main__":
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)
    os.execvp(sys.argv[1], sys.argv[1:])
