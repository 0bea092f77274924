"""Tensors in the safetensors format."""

import pathlib
from collections.abc import Mapping

import numpy as np
import safetensors.numpy
from etils import epath

from lora_jax.errors import ModelError, first_line
from lora_jax.files.json_text import parse
from lora_jax.files.paths import local

MAX_HEADER = 100_000_000  # bytes; the format's own bound


def read_safetensors(file: str | epath.PathLike) -> dict[str, np.ndarray]:
    """All tensors of a file by name, in the order of the names. Raises ModelError where it cannot be read, or has a name twice."""
    try:
        with local(file) as path:  # `safetensors.numpy.load` of its bytes would know no bfloat16
            _require_header(path)
            return dict(sorted(safetensors.numpy.load_file(path).items()))  # it gives them in another order each time
    except ModelError as error:
        raise ModelError(f"{file} cannot be read as safetensors ({str(error).rstrip('.')}); fetch it again.") from error
    except AttributeError as error:  # a dtype that numpy lacks, as float8
        raise ModelError(
            f"{file} cannot be read as safetensors here: it has numbers of another type ({first_line(error)}); take the weights in 16 or 32 bits."
        ) from error
    except Exception as error:  # its own error; OSError
        raise ModelError(
            f"{file} cannot be read as safetensors ({type(error).__name__}: {first_line(error)}); fetch it again."
        ) from error


def _require_header(path: pathlib.Path) -> None:
    """Raises ModelError for a header that has a name twice, of which the format's own reader takes one."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size <= MAX_HEADER:
            parse(file.read(size), "its header")


def as_safetensors(tensors: Mapping[str, np.ndarray]) -> bytes:
    """The content of a file of these tensors."""
    ordered = {name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)}
    return safetensors.numpy.save(ordered, metadata={"format": "pt"})
