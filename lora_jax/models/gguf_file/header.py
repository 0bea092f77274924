"""The header of a GGUF file: metadata, and where each tensor lies.

The `gguf` package has a reader of its own; it takes a header at its word (an array said to be 2^60 long fills the memory, a file
that is cut ends in an IndexError) and makes three numpy views of each token. Here each length is held against the file first.
"""

import pathlib
import struct
from typing import Any, NamedTuple

import numpy as np

from lora_jax.errors import ModelError, first_line, shown

MAGIC, VERSIONS = b"GGUF", (2, 3)
SCALARS = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "|b1",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
STRING, ARRAY = 8, 9
MAX_AXES = 4
ALIGNMENT = 32  # bytes, where general.alignment does not say


class Tensor(NamedTuple):
    """Where a tensor is: its shape [rows, columns] as numpy has it, the number of its type, its first byte."""

    shape: tuple[int, ...]
    kind: int
    start: int


class Header(NamedTuple):
    """What a file says before its tensors; `data` is the whole file, mapped."""

    path: pathlib.Path
    metadata: dict[str, Any]
    tensors: dict[str, Tensor]
    data: np.ndarray


def read(path: pathlib.Path, where: str) -> Header:
    """The header of one file.

    Args:
      path: on a disk.
      where: what messages call it.

    Raises:
      ModelError: for what is no GGUF, is cut short, or has a name twice.
    """
    try:
        data = np.memmap(path, mode="r")
    except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
        raise ModelError(f"{where} cannot be read as GGUF ({first_line(error)}).") from error
    cursor = _Cursor(memoryview(data), where)
    tensor_count, field_count = cursor.begin()
    metadata = cursor.named(field_count, cursor.value, "field")
    relative = cursor.named(tensor_count, cursor.tensor, "tensor")
    alignment = metadata.get("general.alignment", ALIGNMENT)
    if not isinstance(alignment, int) or isinstance(alignment, bool) or not 0 < alignment <= 2**20:
        raise ModelError(f"{where}: general.alignment is {shown(alignment)}; it must be a number of bytes.")
    first = -(-cursor.at // alignment) * alignment
    tensors = {name: tensor._replace(start=first + tensor.start) for name, tensor in relative.items()}
    return Header(path, metadata, tensors, data)


class _Cursor:
    """Reads one thing after another, none of it past the end of the file."""

    def __init__(self, buffer: memoryview, where: str):
        self.buffer, self.where, self.at = buffer, where, 0

    def take(self, count: int) -> memoryview:
        """The next `count` bytes."""
        if count > len(self.buffer) - self.at:
            raise ModelError(f"{self.where} is cut short, or damaged, in its header; fetch it again.")
        self.at += count
        return self.buffer[self.at - count : self.at]

    def number(self, form: str) -> int:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def begin(self) -> tuple[int, int]:
        """(how many tensors, how many fields of metadata)."""
        if bytes(self.buffer[:4]) != MAGIC:
            raise ModelError(f"{self.where} is no GGUF file: it begins with {bytes(self.buffer[:4])!r}, not {MAGIC!r}.")
        self.take(4)
        version = self.number("<I")
        if version not in VERSIONS:
            order = "of the other byte order" if version and not version & 0xFFFF else f"version {version} of GGUF"
            raise ModelError(f"{self.where} is {order}; versions 2 and 3 in little-endian order are read here.")
        return self.number("<Q"), self.number("<Q")

    def named(self, count: int, read: Any, what: str) -> dict[str, Any]:
        """`count` times a name and what `read` reads."""
        found: dict[str, Any] = {}
        for _ in range(count):  # ends with the file, whatever `count` says
            name = self.text()
            if name in found:
                raise ModelError(f"{self.where}: the {what} {name} is there twice.")
            found[name] = read()
        return found

    def text(self) -> str:
        content = bytes(self.take(self.number("<Q")))
        try:
            return content.decode()
        except UnicodeDecodeError as error:
            raise ModelError(f"{self.where} is damaged: a text in its header is not UTF-8.") from error

    def value(self) -> Any:
        kind = self.number("<I")
        return self.array() if kind == ARRAY else self.items(kind, 1)[0]

    def array(self) -> list[Any]:
        kind, count = self.number("<I"), self.number("<Q")
        if kind == ARRAY:
            raise ModelError(f"{self.where} has an array of arrays in its header, which no model has.")
        return self.items(kind, count)

    def items(self, kind: int, count: int) -> list[Any]:
        """`count` values of one kind."""
        if kind == STRING:
            if count > (len(self.buffer) - self.at) // 8:  # each has its length before it
                self.take(len(self.buffer))
            return [self.text() for _ in range(count)]
        if kind not in SCALARS:
            raise ModelError(f"{self.where} has a value of type {kind} in its header, which GGUF does not have.")
        numbers = np.frombuffer(self.take(count * np.dtype(SCALARS[kind]).itemsize), SCALARS[kind])
        # A float32 as its shortest decimals: 1e-05, which was meant, and not 9.999999747378752e-06.
        return [float(str(each)) for each in numbers] if numbers.dtype == np.float32 else numbers.tolist()

    def tensor(self) -> Tensor:
        axes = self.number("<I")
        if not 0 < axes <= MAX_AXES:
            raise ModelError(f"{self.where} is damaged: a tensor of {axes} axes; a tensor has 1 to {MAX_AXES}.")
        sizes = [self.number("<Q") for _ in range(axes)]
        return Tensor(tuple(reversed(sizes)), self.number("<I"), self.number("<Q"))
