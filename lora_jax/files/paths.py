"""Where files are: on a disk, or in a bucket."""

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

from etils import epath

from lora_jax.errors import ModelError


def is_remote(path: str | epath.PathLike) -> bool:
    """Whether it is in a bucket (gs://...), which has neither a working directory nor files that can be mapped.

    >>> is_remote("gs://bucket/run"), is_remote("run")
    (True, False)
    """
    return "://" in str(path)


def require_path(path: Any, error: type[Exception] = ModelError) -> Any:
    """`path`, once it is one. Raises `error` for what is none, a number or None say.

    >>> require_path("run")
    'run'
    """
    if not isinstance(path, (str, os.PathLike)) or "\0" in os.fspath(path):
        raise error(f"{path!r} is no path; give a string or a pathlib.Path.")
    return path


@contextlib.contextmanager
def local(file: str | epath.PathLike) -> Iterator[pathlib.Path]:
    """A file for a library that opens none in a bucket: the file itself, or for a while a copy of the same name.

    >>> with local("vocab.txt") as path:
    ...     str(path)
    'vocab.txt'
    """
    if not is_remote(file):
        yield pathlib.Path(file)
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder) / epath.Path(file).name
        copy.write_bytes(epath.Path(file).read_bytes())
        yield copy
