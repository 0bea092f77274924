"""Files: written whole or not at all, and tensors in the safetensors format."""

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import safetensors.numpy
from etils import epath

from lora_jax.errors import ModelError, first_line


def is_remote(path: str | epath.PathLike) -> bool:
    """Whether it is in a bucket (gs://...), which has neither a working directory nor files that can be mapped.

    >>> is_remote("gs://bucket/run"), is_remote("run")
    (True, False)
    """
    return "://" in str(path)


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


def read_safetensors(file: str | epath.PathLike) -> dict[str, np.ndarray]:
    """All tensors of a file by name. Raises ModelError where it cannot be read."""
    try:
        with local(file) as path:  # `safetensors.numpy.load` of its bytes would know no bfloat16
            return safetensors.numpy.load_file(path)
    except Exception as error:  # its own error; OSError; AttributeError for a dtype that numpy lacks, as float8
        raise ModelError(
            f"{file} cannot be read as safetensors ({type(error).__name__}: {first_line(error)}); fetch it again."
        ) from error


def write_safetensors(file: str | epath.PathLike, tensors: Mapping[str, np.ndarray]) -> None:
    """Atomically, byte for byte the same for the same tensors, with the metadata that other loaders ask for.

    Raises:
      ModelError: as `write_atomically`.
    """
    write_atomically(file, as_safetensors(tensors))


def as_safetensors(tensors: Mapping[str, np.ndarray]) -> bytes:
    """The content of a file of these tensors."""
    ordered = {name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)}
    return safetensors.numpy.save(ordered, metadata={"format": "pt"})


def write_atomically(file: str | epath.PathLike, content: bytes) -> None:
    """A reader sees the old file or the new one; the folder is made where there is none.

    Raises:
      ModelError: when it cannot be written.
    """
    write_together({file: content})


def write_together(contents: Mapping[Any, bytes]) -> None:
    """Files that belong together: the old ones stay until all of the new ones are on the disk.

    The last one names the others: it is away while they change, so that nobody reads old and new mixed.

    Raises:
      ModelError: as `write_atomically`.
    """
    contents = {epath.Path(file): content for file, content in contents.items()}
    temporaries = {file: file.with_name(f".{file.name}.{os.getpid()}") for file in contents}
    *_, last = contents
    try:
        for file, content in contents.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            temporaries[file].write_bytes(content)
        if len(contents) > 1:
            last.unlink(missing_ok=True)
        for file, temporary in temporaries.items():
            temporary.replace(file)
    except OSError as error:
        raise ModelError(f"cannot write {file}: {error.strerror or error}.") from error
    finally:
        for temporary in temporaries.values():
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
