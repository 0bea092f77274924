"""Files of a folder that belong together: a reader never meets the old one of the one beside the new one of the other."""

import contextlib
import errno
import os
import pathlib
import shutil
from collections.abc import Mapping

from etils import epath

from lora_jax.errors import ModelError
from lora_jax.files import replacing
from lora_jax.files.exchange import exchanged
from lora_jax.files.paths import is_remote, require_path
from lora_jax.files.replacing import flush, is_temporary, make_folder, temporary_name, write_temporary

_NOT_OURS = {errno.EACCES, errno.EPERM, errno.EROFS}  # of a folder into which nothing may be put


def write_folder(folder: str | epath.PathLike, contents: Mapping[str, bytes]) -> None:
    """Writes files into a folder, all or none; what else lies in it stays.

    The last file is the one without which a reader takes none of them (a config.json). Where it is not there yet, it comes last. Where it
    is, and more than one file changes, the folder is built anew beside the old one, and the two exchange their names in one step:
    a shell whose working directory it is has to enter it again. A disk that cannot exchange folders, a folder above it that takes none, or a
    bucket: there the last file is away while the others change.

    Args:
      contents: file name -> content; the last one names the others.

    Raises:
      ModelError: when it cannot be written; then all is as before.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_folder(folder, {"weights": b"old", "config": b"old"})
    ...     write_folder(folder, {"weights": b"new", "config": b"new"})
    ...     sorted((path.name, path.read_bytes()) for path in pathlib.Path(folder).iterdir())
    [('config', b'new'), ('weights', b'new')]
    """
    require_path(folder)
    try:
        if is_remote(folder):
            _in_bucket(epath.Path(folder), contents)
        else:
            _on_disk(pathlib.Path(folder), contents)
    except OSError as error:
        raise ModelError(
            f"cannot write {pathlib.PurePath(error.filename or folder)}: {error.strerror or error}."
        ) from error


def _in_bucket(folder: epath.Path, contents: Mapping[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    *_, last = contents
    if len(contents) > 1:
        (folder / last).unlink(missing_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)


def _on_disk(folder: pathlib.Path, contents: Mapping[str, bytes]) -> None:
    make_folder(folder)
    changed = {name: content for name, content in contents.items() if not _holds(folder / name, content)}
    *_, last = contents
    if len(changed) < 2 or not os.path.lexists(folder / last):
        _one_by_one(folder, changed)
    else:
        _at_once(pathlib.Path(os.path.realpath(folder)), changed, last)


def _holds(file: pathlib.Path, content: bytes) -> bool:
    """Whether it is a file of this content already."""
    if file.is_symlink() or not file.is_file() or file.stat().st_size != len(content):
        return False
    return file.read_bytes() == content


def _one_by_one(folder: pathlib.Path, contents: Mapping[str, bytes], *, without: str | None = None) -> None:
    """In this order, once all are on the disk; the file `without` is away in the meantime."""
    temporaries: dict[str, pathlib.Path] = {}
    try:
        for name, content in contents.items():
            _require_no_folder(folder / name)
            temporaries[name] = write_temporary(folder, name, content)
        if without is not None:
            os.unlink(folder / without)
        for name, temporary in temporaries.items():
            os.replace(temporary, folder / name)
        flush(folder)
    except BaseException:
        for temporary in temporaries.values():
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        raise


def _require_no_folder(file: pathlib.Path) -> None:
    if file.is_dir() and not file.is_symlink():
        raise IsADirectoryError(21, "a folder of this name is in its place", os.fspath(file))


def _at_once(folder: pathlib.Path, changed: Mapping[str, bytes], last: str) -> None:
    replacing.remove_abandoned(folder.parent, folder.name)
    for name in changed:
        _require_no_folder(folder / name)
    new = temporary_name(folder.parent, folder.name)
    done = _is_made(new) and _is_exchanged(new, folder, changed)
    if not done:
        _one_by_one(folder, {**changed, last: changed.get(last, (folder / last).read_bytes())}, without=last)


def _is_made(new: pathlib.Path) -> bool:
    """Makes the folder; False where the one above takes none, as that of a volume that is mounted for a user."""
    try:
        os.mkdir(new, 0o700)
    except OSError as error:
        if error.errno not in _NOT_OURS:
            raise
        return False
    return True


def _is_exchanged(new: pathlib.Path, folder: pathlib.Path, changed: Mapping[str, bytes]) -> bool:
    """Builds the folder anew and exchanges the two; False, and all is as before, where the disk cannot."""
    try:
        _mirror(folder, new, leave_out=changed)
        for name, content in changed.items():
            temporary = write_temporary(new, name, content)
            replacing.copy_rights(folder / name, temporary)
            os.rename(temporary, new / name)
        shutil.copystat(folder, new)
        flush(new)
        done = exchanged(new, folder)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    if done:
        flush(folder.parent)
        _bring_latecomers(new, folder)
    shutil.rmtree(new, ignore_errors=True)
    return done


def _entries(folder: pathlib.Path) -> list[os.DirEntry]:
    with os.scandir(folder) as entries:
        return list(entries)


def _mirror(old: pathlib.Path, new: pathlib.Path, *, leave_out: Mapping[str, bytes]) -> None:
    """What else a folder holds, under the same names in another: the same files, not copies, where the disk can."""
    for entry in _entries(old):
        if entry.name in leave_out or is_temporary(entry.name):
            continue
        target = new / entry.name
        if entry.is_dir(follow_symlinks=False):
            os.mkdir(target)
            _mirror(pathlib.Path(entry.path), target, leave_out={})
            shutil.copystat(entry.path, target)
        else:
            _link(entry.path, target)


def _link(old: str, new: pathlib.Path) -> None:
    try:
        os.link(old, new, follow_symlinks=False)
    except (OSError, NotImplementedError):
        shutil.copy2(old, new, follow_symlinks=False)


def _bring_latecomers(old: pathlib.Path, new: pathlib.Path) -> None:
    """Moves what others put into the folder, or into one in it, while it was built anew."""
    for entry in _entries(old):
        if not os.path.lexists(new / entry.name):
            with contextlib.suppress(OSError):
                os.rename(entry.path, new / entry.name)
        elif entry.is_dir(follow_symlinks=False) and (new / entry.name).is_dir():
            _bring_latecomers(pathlib.Path(entry.path), new / entry.name)
