"""From the command line to a study: one place that turns mistakes into sentences and exit statuses."""

from experiments.common import interrupts  # first, as it takes over Ctrl-C

# isort: split

import contextlib
import difflib
import errno
import logging as stdlib_logging
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from typing import IO, NoReturn

# Before any library logs: XLA's and absl's chatter is not what a user came for.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import flags, logging  # noqa: E402

from experiments.common import processes, usage  # noqa: E402
from experiments.common.errors import UserError, sentence  # noqa: E402

INTERRUPTED = interrupts.INTERRUPTED
CLOSED = 141  # 128 + SIGPIPE
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
LONGEST_NAME = 100  # of a flag
LONGEST = 600  # characters of a sentence about flags


def run(main: Callable[[], None], *, needs_jax: bool = True) -> None:
    """Runs an experiment's `main()`: status 0 when done, 1 for bad flags, 2 for a user's mistake, 130 for Ctrl-C, 141 for a closed pipe."""
    with _written_whole():
        arguments = sys.argv[1:]
        asked = usage.is_asked(arguments)
        if asked:
            print(usage.text(asked))
            return
        rest = _parse(sys.argv)
        if len(rest) > 1:
            _fail(f"there is no argument {rest[1]!r}; settings are flags, see --help.")
        logging.set_verbosity(logging.FATAL)  # what goes wrong is raised, too
        stdlib_logging.getLogger("asyncio").setLevel(
            stdlib_logging.CRITICAL
        )  # orbax's tasks that nobody waits for any more
        if needs_jax:
            _load_jax()
        guarded(main)


def guarded(main: Callable[[], None]) -> None:
    """`main()`, whose mistakes end in a sentence."""
    try:
        main()
    except UserError as error:
        _fail(str(error))
    except BrokenPipeError:
        raise
    except MemoryError:
        _fail(
            "memory is used up; give fewer seeds, a smaller batch, rank or model, and the same command goes on from what is saved."
        )
    except OSError as error:
        if error.errno not in DISK:
            raise
        where = error.filename or "the disk"
        _fail(f"cannot write to {where}: {error.strerror}; mend that, and the same command goes on.")
    except Exception as error:
        from lora_jax.errors import LoRAError, first_line

        if isinstance(error, LoRAError):
            _fail(str(error))
        if "RESOURCE_EXHAUSTED" in str(error):
            _fail(f"memory is used up ({first_line(error)}); give fewer seeds, or a smaller batch, rank or model.")
        if not processes.is_ended_by_another(error):
            raise
        _fail(f"another process of this run has ended ({first_line(error)}); see what it said, and begin all again.")


def _load_jax() -> None:
    """Before all else that imports it, and would hide why it cannot be: it reads variables of the environment."""
    try:
        import jax  # noqa: F401
    except ImportError as error:
        _fail(f"JAX cannot be imported ({error}): pip install -e '.[experiments]'.")
    except Exception as error:  # of several kinds
        _fail(
            f"JAX does not start ({type(error).__name__}: {error}); mend the variable of the environment that this names."
        )


@contextlib.contextmanager
def _written_whole() -> Iterator[None]:
    """What is printed reaches its reader, or the program ends as one does whose reader has left: quietly."""
    if sys.stdout is not None and hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show is no reason to stop
    try:
        try:
            yield
        finally:
            if sys.stdout is not None and not sys.stdout.closed:
                sys.stdout.flush()
    except BrokenPipeError:
        if not interrupts.is_program() or not any(map(_has_left, (sys.stdout, sys.stderr))):
            raise
        _leave_as_a_tool()
    except OSError as error:  # of the flush: `> /dev/full`
        if error.errno not in DISK or not interrupts.is_program():
            raise
        os.write(2, f"error: cannot write to standard output: {error.strerror}.\n".encode())
        os._exit(2)


def _has_left(stream: IO[str] | None) -> bool:
    """Whether the reader of a pipe has closed it."""
    if stream is None or not hasattr(select, "poll"):
        return stream is not None
    poll = select.poll()
    poll.register(stream.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _leave_as_a_tool() -> NoReturn:
    """Ends by SIGPIPE, as `cat` does; nothing is left to flush."""
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGPIPE)
    os._exit(CLOSED)


def _parse(argv: list[str]) -> list[str]:
    try:
        for argument in argv[1:]:
            _require_utf8(argument)
            _require_short(argument)
        return flags.FLAGS(argv)
    except flags.UnrecognizedFlagError as error:
        _refuse(_unknown(error.flagname))
    except RecursionError:  # of absl's search for a name like it, in a --flagfile
        _refuse("there is no flag of so long a name in a --flagfile")
    except (flags.Error, OSError, UnicodeError) as error:  # the last two: of --flagfile
        _refuse(str(error).strip().rstrip("."))


def _require_utf8(argument: str) -> None:
    try:
        argument.encode()
    except UnicodeEncodeError:
        raise flags.Error(f"{ascii(argument)} is not UTF-8; give names that are") from None


def _require_short(argument: str) -> None:
    """Absl looks for a name like it letter by letter, and each within the one before."""
    name = argument.split("=")[0]
    if name.startswith("-") and len(name) > LONGEST_NAME:
        raise flags.Error(f"there is no flag {name[:LONGEST_NAME]}...")


def _unknown(name: str) -> str:
    """That there is no such flag, and the closest that there are."""
    known = [flag.name for flag in usage.own()]
    names = known + [f"no{flag.name}" for flag in usage.own() if flag.boolean]
    close = difflib.get_close_matches(name.lower().replace("-", "_"), names, n=1, cutoff=0.5)
    close = close or [known_name for known_name in known if name and known_name.startswith(name)][:1]
    return f"there is no flag --{name}" + (f" (did you mean --{close[0]}?)" if close else "")


def _refuse(problem: str) -> NoReturn:
    print(f"error: {sentence(problem, LONGEST)}; see --help.", file=sys.stderr)
    sys.exit(1)


def _fail(problem: str) -> NoReturn:
    processes.leave(f"error: {sentence(problem)}", 2)
