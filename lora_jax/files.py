"""Files: written whole or not at all, and tensors in the safetensors format."""

import contextlib
import os
import pathlib
from collections.abc import Mapping

import numpy as np
import safetensors.numpy

from lora_jax.errors import ModelError, first_line


def read_safetensors(file: pathlib.Path) -> dict[str, np.ndarray]:
    """All tensors of a file by name. Raises ModelError where it cannot be read."""
    try:
        return safetensors.numpy.load_file(file)
    except Exception as error:  # its own error; OSError; AttributeError for a dtype that numpy lacks, as float8
        raise ModelError(
            f"{file} cannot be read as safetensors ({type(error).__name__}: {first_line(error)}); fetch it again."
        ) from error


def write_safetensors(file: pathlib.Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Atomically, byte for byte the same for the same tensors, with the metadata that other loaders ask for.

    Raises:
      ModelError: as `write_atomically`.
    """
    ordered = {name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)}
    write_atomically(file, safetensors.numpy.save(ordered, metadata={"format": "pt"}))


def write_atomically(file: pathlib.Path, content: bytes) -> None:
    """A reader sees the old file or the new one; the folder is made where there is none.

    Raises:
      ModelError: when it cannot be written.
    """
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(file)
    except OSError as error:
        raise ModelError(f"cannot write {file}: {error.strerror or error}.") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
