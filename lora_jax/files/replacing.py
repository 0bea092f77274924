"""Replacing a file or a folder in one step: whoever reads, and whatever is killed when, meets the old one or the new one.

A new file is written beside the old one under a random name that nobody else has (O_EXCL), flushed to the disk, and renamed.
A link that lies where a file will be is replaced, never followed. What a killed process left behind is removed by a later
write of the same file.
"""

import contextlib
import os
import pathlib
import re
import secrets
import shutil
import stat
import time

from etils import epath

from lora_jax.errors import ModelError
from lora_jax.files import exchange
from lora_jax.files.paths import is_remote, require_path

_TEMPORARY = re.compile(r"\.(.*)\.[0-9a-f]{16}\.tmp", re.DOTALL)  # the names of what is being written
_LONGEST = 200  # bytes of a name that a temporary's has of it: all in all a name has 255 at most
ABANDONED_S = 3600.0  # a temporary that nobody has written to for so long is a killed process's
NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
APPEND = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)


def write_atomically(file: str | epath.PathLike, content: bytes) -> None:
    """A reader sees the old file or the new one; the folder is made where there is none. In a bucket an object is written whole.

    Raises:
      ModelError: when it cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_atomically(f"{folder}/inner/file", b"new")
    ...     pathlib.Path(f"{folder}/inner/file").read_bytes()
    b'new'
    """
    require_path(file)
    try:
        if is_remote(file):
            epath.Path(file).write_bytes(content)
            return
        path = pathlib.Path(file)
        make_folder(path.parent)
        with removed_on_error(write_temporary(path.parent, path.name, content)) as temporary:
            os.replace(temporary, path)
        flush(path.parent)
    except OSError as error:
        raise ModelError(f"cannot write {file}: {error.strerror or error}.") from error


def append_line(file: str | epath.PathLike, line: bytes) -> None:
    """Adds a line at the end of a file, apart from half a line that a killed process may have left there; flushed, and never through a link.

    Raises:
      OSError: when it cannot be written, or a link lies in its place.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = pathlib.Path(folder) / "lines"
    ...     for line in (b"one", b"two"):
    ...         append_line(file, line)
    ...     file.read_bytes()
    b'one\\ntwo\\n'
    """
    descriptor = os.open(file, APPEND, 0o666)
    try:
        size = os.fstat(descriptor).st_size
        is_cut = size > 0 and _byte_at(descriptor, size - 1) != b"\n"
        _write_all(descriptor, (b"\n" if is_cut else b"") + line + b"\n")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_folder(new: pathlib.Path, folder: pathlib.Path) -> None:
    """Puts a whole folder in place of another in one step, and removes the old one; both lie on one disk.

    Raises:
      OSError: when neither the system nor the disk can exchange two folders and the old one cannot be moved.
    """
    flush_tree(new)
    if not folder.exists():
        os.rename(new, folder)
    elif not exchange.exchanged(new, folder):  # the disk cannot: for a moment there is none
        aside = temporary_name(folder.parent, folder.name)
        os.rename(folder, aside)
        os.rename(new, folder)
        new = aside
    flush(folder.parent)
    shutil.rmtree(new, ignore_errors=True)


def make_folder(folder: pathlib.Path) -> None:
    """With those above it, each flushed into the one above."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        flush(path.parent)


def write_temporary(folder: pathlib.Path, name: str, content: bytes) -> pathlib.Path:
    """A new file of random name beside where it will be, flushed, with the access rights of the one that it will replace."""
    remove_abandoned(folder, name)
    temporary = temporary_name(folder, name)
    with removed_on_error(temporary):
        descriptor = os.open(temporary, NEW, 0o666)
        try:
            copy_rights(folder / name, temporary)
            _write_all(descriptor, content)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    return temporary


def copy_rights(old: pathlib.Path, new: pathlib.Path) -> None:
    """The access rights of a file for the one that will replace it."""
    with contextlib.suppress(FileNotFoundError):
        mode = os.lstat(old).st_mode
        if stat.S_ISREG(mode):
            os.chmod(new, stat.S_IMODE(mode))


@contextlib.contextmanager
def removed_on_error(temporary: pathlib.Path):
    """Removes a temporary file where it does not get its name."""
    try:
        yield temporary
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def temporary_name(folder: pathlib.Path, name: str) -> pathlib.Path:
    """A name that nobody has and nobody can guess; a long one is cut, as names have 255 bytes at most."""
    return folder / f".{_cut(name)}.{secrets.token_hex(8)}.tmp"


def is_temporary(found: str, name: str | None = None) -> bool:
    """Whether a name is one of `temporary_name`'s, for this name or for any; a user's own "notes.tmp" or ".cache.tmp" is none.

    >>> is_temporary(".config.0123456789abcdef.tmp", "config"), is_temporary(".config.old.tmp"), is_temporary("notes.tmp")
    (True, False, False)
    """
    parts = _TEMPORARY.fullmatch(found)
    return parts is not None and (name is None or parts[1] == _cut(name))


def _cut(name: str) -> str:
    found = os.fsencode(name)
    return found[:_LONGEST].decode(errors="ignore") if len(found) > _LONGEST else name


def remove_abandoned(folder: pathlib.Path, name: str | None = None) -> None:
    """Removes what a process that was killed long ago left of a file or folder of this name, or of any."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if is_temporary(path.name, name) and _is_abandoned(path):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() and not path.is_symlink() else path.unlink()


def _is_abandoned(path: pathlib.Path) -> bool:
    return time.time() - path.lstat().st_mtime > ABANDONED_S


def flush(path: pathlib.Path) -> None:
    """Asks the system to put a file, or the names in a folder, onto the disk; does nothing where a folder cannot be opened (Windows)."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # a disk that knows no such thing
    finally:
        os.close(descriptor)


def flush_tree(folder: pathlib.Path) -> None:
    """`flush` for a folder and everything in it."""
    for place, _, names in os.walk(folder, topdown=False):
        for name in names:
            flush(pathlib.Path(place) / name)
        flush(pathlib.Path(place))


def _byte_at(descriptor: int, position: int) -> bytes:
    os.lseek(descriptor, position, os.SEEK_SET)
    return os.read(descriptor, 1)


def _write_all(descriptor: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
