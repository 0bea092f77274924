"""A file system seen between every two system calls of a writer, and one in which a call of its fails.

What is on the disk before a call is what a process that is killed there leaves: nothing that Python holds is written by a kill.
"""

import contextlib
import errno
import os
import pathlib
import threading
from collections.abc import Callable, Iterator

from lora_jax.files import exchange

CALLS = (
    "open", "write", "fsync", "close", "rename", "replace", "unlink", "remove", "mkdir", "makedirs", "rmdir", "link", "symlink", "chmod", "utime",
    "truncate", "ftruncate",
)  # fmt: skip
Content = dict[str, bytes | None]  # path -> bytes; None is a folder


def content(folder: pathlib.Path) -> Content:
    """Everything below a folder; what another thread is just removing is left out."""
    found: Content = {}
    for path in sorted(folder.rglob("*")):
        with contextlib.suppress(FileNotFoundError):
            found[str(path.relative_to(folder))] = None if path.is_dir() else path.read_bytes()
    return found


def lay(folder: pathlib.Path, found: Content) -> pathlib.Path:
    """Puts such content into a new folder."""
    folder.mkdir()
    for name, data in found.items():
        if data is None:
            (folder / name).mkdir(parents=True, exist_ok=True)
        else:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
    return folder


@contextlib.contextmanager
def watched(before: Callable[[str, int], None]) -> Iterator[list[str]]:
    """Every call of `os` that changes files, and the exchange of two folders, is told to `before` first; a write is done in two halves.

    Yields:
      The names of the calls so far.
    """
    made: list[str] = []
    real = {name: getattr(os, name) for name in CALLS}
    busy = threading.local()

    def told(name: str, call: Callable) -> Callable:
        def wrapped(*args, **kwargs):
            if getattr(busy, "in_call", False):
                return call(*args, **kwargs)
            busy.in_call = True
            try:
                made.append(name)
                before(name, len(made))
                if name == "write" and len(args[1]) > 1:
                    return call(args[0], args[1][: len(args[1]) // 2])
                return call(*args, **kwargs)
            finally:
                busy.in_call = False

        return wrapped

    swap = exchange.exchanged
    for name, call in real.items():
        setattr(os, name, told(name, call))
    exchange_in = _users_of_exchange()
    for module in exchange_in:
        module.exchanged = told("exchange", swap)
    try:
        yield made
    finally:
        for name, call in real.items():
            setattr(os, name, call)
        for module in exchange_in:
            module.exchanged = swap


def _users_of_exchange() -> list:
    from lora_jax.files import folders

    return [exchange, folders]


def states(folder: pathlib.Path, write: Callable[[], None]) -> list[Content]:
    """What is in the folder before every call that `write` makes, and at its end: what a kill between any two of them leaves."""
    found: list[Content] = []
    with watched(lambda name, number: found.append(content(folder))):
        write()
    found.append(content(folder))
    return found


def failing(
    folder: pathlib.Path, write: Callable[[], None], lay_again: Callable[[], None]
) -> Iterator[tuple[str, BaseException | None, Content]]:
    """(call, what `write` raises, what is in the folder then), with each of its calls failing in turn as on a disk that is full."""
    number = 0
    while True:
        number += 1
        lay_again()
        reached: list[str] = []

        def fail(name: str, at: int, wanted: int = number, reached: list[str] = reached) -> None:
            if at == wanted:
                reached.append(name)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))

        raised = None
        with watched(fail):
            try:
                write()
            except Exception as error:
                raised = error
        if not reached:
            return
        yield reached[0], raised, content(folder)
