"""From the command line to a study: one place that turns mistakes into sentences and exit statuses."""

import errno
import os
import pathlib
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

# Before any library logs: XLA's and absl's chatter is not what a user came for.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import app, flags, logging  # noqa: E402

from experiments.common import processes  # noqa: E402
from experiments.common.errors import UserError  # noqa: E402

INTERRUPTED = 130  # 128 + SIGINT, as shells have it
ENTRIES = pathlib.Path(__file__).resolve().parents[1]
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)


def _interrupted(*_: object) -> None:
    """Ctrl-C ends the program at once: raised as an exception, it can get lost in a callback of JAX's."""
    os.write(2, b"\nInterrupted: what is saved stays, and the same command goes on from there.\n")
    os._exit(INTERRUPTED)  # threads of the data and checkpoint libraries must not keep the terminal waiting


def _is_program() -> bool:
    """Whether this process runs an entry of ours, and not a test that imports one."""
    started = getattr(sys.modules["__main__"], "__file__", None)
    return started is not None and pathlib.Path(started).resolve().parent == ENTRIES


if _is_program():  # now, as the libraries that take seconds to load come after this module
    signal.signal(signal.SIGINT, _interrupted)


def run(main: Callable[[], None]) -> None:
    """Runs an experiment's `main()`: status 0 when done, 1 for bad flags, 2 for a user's mistake, 130 for Ctrl-C."""

    def guarded(argv: list[str]) -> None:
        from lora_jax.errors import LoRAError, first_line

        if len(argv) > 1:
            _fail(f"there is no argument {argv[1]!r}; settings are flags, see --help.")
        logging.set_verbosity(logging.FATAL)  # what goes wrong is raised, too
        try:
            main()
        except (UserError, LoRAError) as error:
            _fail(str(error))
        except OSError as error:
            if error.errno not in DISK:
                raise
            where = error.filename or "the disk"
            _fail(f"cannot write to {where}: {error.strerror}; mend that, and the same command goes on.")
        except Exception as error:
            if not processes.is_ended_by_another(error):
                raise
            _fail(
                f"another process of this run has ended ({first_line(error)}); see what it said, and begin all again."
            )

    app.run(guarded, flags_parser=_parse)


def _parse(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        print(f"error: {str(error).strip().rstrip('.')}; see --help.", file=sys.stderr)
        sys.exit(1)


def _fail(sentence: str) -> NoReturn:
    processes.leave(f"error: {sentence}", 2)
