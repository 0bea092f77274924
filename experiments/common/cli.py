"""From the command line to a study: one place that turns mistakes into sentences and exit statuses."""

import errno
import os
import sys
from collections.abc import Callable
from types import TracebackType

# Before any library logs: XLA's and absl's chatter is not what a user came for.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import app, flags, logging  # noqa: E402

from experiments.common.errors import UserError  # noqa: E402

INTERRUPTED = 130  # 128 + SIGINT, as shells have it
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)


def _unhandled(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A sentence for Ctrl-C, whether an experiment runs or its libraries still load; a traceback for anything else."""
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    print("\nInterrupted: what is saved stays, and the same command goes on from there.", file=sys.stderr, flush=True)
    os._exit(INTERRUPTED)  # threads of the data and checkpoint libraries must not keep the terminal waiting


sys.excepthook = _unhandled


def run(main: Callable[[], None]) -> None:
    """Runs an experiment's `main()`: status 0 when done, 1 for bad flags, 2 for a user's mistake, 130 for Ctrl-C."""

    def guarded(argv: list[str]) -> None:
        from lora_jax.errors import LoRAError

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

    app.run(guarded, flags_parser=_parse)


def _parse(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        print(f"error: {str(error).strip().rstrip('.')}; see --help.", file=sys.stderr)
        sys.exit(1)


def _fail(sentence: str) -> None:
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(2)
