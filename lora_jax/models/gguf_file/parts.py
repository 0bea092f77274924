"""The files of a GGUF that is split."""

import pathlib
import re

from lora_jax.errors import ModelError, shown
from lora_jax.models.gguf_file import header
from lora_jax.models.gguf_file.header import Header

NAME = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")
MOST = 10_000  # parts, of which the names have room for 99,999


def read(path: pathlib.Path) -> list[Header]:
    """The header of each file: the one, or all parts of a model whose name ends as "-00001-of-00003.gguf", the first with the metadata.

    Raises:
      ModelError: for a part that is missing or another model's.
    """
    found = header.read(path, str(path))
    count = found.metadata.get("split.count", 1)
    match = NAME.fullmatch(path.name)
    if count in (0, 1):
        return [found]
    if match is None or count != int(match[3]) or count > MOST:
        raise ModelError(
            f"{path} is one of {shown(count)} parts of a model, and is not named as one: model-00001-of-00003.gguf."
        )
    names = [f"{match[1]}-{i + 1:05d}-of-{match[3]}.gguf" for i in range(count)]
    missing = [name for name in names if not (path.parent / name).is_file()]
    if missing:
        raise ModelError(f"{path} is one of {count} parts of a model, and {missing[0]} is not beside it.")
    headers = [header.read(path.parent / name, str(path.parent / name)) for name in names]
    for i, each in enumerate(headers):
        if each.metadata.get("split.count") != count or each.metadata.get("split.no") != i:
            raise ModelError(
                f"{path.parent / names[i]} is not part {i + 1} of {count}, as its name says; fetch it again."
            )
    said, there = headers[0].metadata.get("split.tensors.count"), sum(len(each.tensors) for each in headers)
    if said not in (None, there):
        raise ModelError(f"{path}: its parts have {there} tensors, and {shown(said)} are said to be there.")
    return headers
