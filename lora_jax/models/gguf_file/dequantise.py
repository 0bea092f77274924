"""A GGUF file's tensors as numbers of an ordinary dtype, by the `gguf` package."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from lora_jax.errors import ModelError, first_line
from lora_jax.models.gguf_file.header import Header, Tensor

BLOCK = 2**22  # numbers that are float32 at a time, whatever the tensor's size
NEEDS = 'GGUF files need the package gguf to be read: pip install "lora_jax[gguf]".'


def require_package() -> Any:
    """The `gguf` package. Raises ModelError where it is missing."""
    try:
        import gguf
    except ImportError:
        raise ModelError(NEEDS) from None
    return gguf


def require_whole(header: Header, where: str) -> None:
    """Raises ModelError unless each tensor has a type that is known and lies in the file, apart from the others."""
    sizes = {name: _bytes(name, tensor, where) for name, tensor in header.tensors.items()}
    end, name = max(((header.tensors[name].start + size, name) for name, size in sizes.items()), default=(0, ""))
    if end > len(header.data):
        raise ModelError(
            f"{where} is cut short: {name} ends at byte {end:,}, and there are {len(header.data):,}; fetch it again."
        )
    if sum(sizes.values()) > len(header.data):
        raise ModelError(f"{where} is damaged: its tensors lie one over another.")


def dequantised(header: Header, name: str, where: str, dtype: Any) -> np.ndarray:
    """A tensor as numbers of `dtype`, a block of rows at a time."""
    tensor = header.tensors[name]
    out = np.empty(tensor.shape, dtype)
    rows = out.reshape(-1, tensor.shape[-1])
    at = 0
    with np.errstate(over="ignore", invalid="ignore"):  # numbers that are none are found with the other tensors'
        for block in _blocks(header, name, where):
            rows[at : at + len(block)] = block
            at += len(block)
    return out


def _blocks(header: Header, name: str, where: str) -> Iterator[np.ndarray]:
    gguf = require_package()
    tensor = header.tensors[name]
    kind = gguf.GGMLQuantizationType(tensor.kind)
    size = _bytes(name, tensor, where)
    count = math.prod(tensor.shape[:-1])
    stored = header.data[tensor.start : tensor.start + size].reshape(count, size // count)
    step = max(1, BLOCK // tensor.shape[-1])
    for at in range(0, count, step):
        try:
            yield gguf.quants.dequantize(np.ascontiguousarray(stored[at : at + step]), kind)
        except NotImplementedError as error:
            raise ModelError(_cannot(where, name, kind.name)) from error
        except ValueError as error:
            raise ModelError(f"{where}: {name} cannot be read as {kind.name} ({first_line(error)}).") from error


def _bytes(name: str, tensor: Tensor, where: str) -> int:
    """How many bytes a tensor has."""
    gguf = require_package()
    try:
        kind = gguf.GGMLQuantizationType(tensor.kind)
        block, size = gguf.GGML_QUANT_SIZES[kind]
    except (ValueError, KeyError):
        raise ModelError(_cannot(where, name, f"number {tensor.kind}")) from None
    if tensor.shape[-1] % block or not math.prod(tensor.shape):
        raise ModelError(f"{where} is damaged: {name} {list(tensor.shape)} cannot be of type {kind.name}.")
    return math.prod(tensor.shape) // block * size


def _cannot(where: str, name: str, kind: str) -> str:
    from importlib.metadata import version

    return (
        f"{where}: {name} is of the type {kind}, which gguf {version('gguf')} cannot dequantise; "
        "take the model's file of another type, as F16, Q8_0 or Q4_K_M, or a newer gguf."
    )
