"""GGUF, the one file of llama.cpp that holds a model's config, its weights, often quantised, and its tokenizer.

Read by the `gguf` package (the extra "gguf"). What is read looks as if a Hugging Face folder had been: names, layout, config.json.
"""

import dataclasses
import os
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np
from etils import epath

from lora_jax.errors import ModelError
from lora_jax.files import is_remote, local, require_path
from lora_jax.models import tokenizer
from lora_jax.models.gguf_file import dequantise, names, parts, settings, vocabulary
from lora_jax.models.gguf_file.header import Header
from lora_jax.models.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True, eq=False)
class GGUF:
    """What a file holds: `values` as in config.json; `tensors` by Hugging Face's names; the tokenizer, where there is one."""

    values: dict[str, Any]
    tensors: dict[str, np.ndarray]
    tokenizer: Tokenizer | None


def read(path: str | os.PathLike, param_dtype: Any = None) -> GGUF:
    """Reads a model from a .gguf file, or from all parts of one that is split (name any of them).

    Args:
      path: the file; a tokenizer.json beside it goes before the tokenizer within.
      param_dtype: of the tensors, float32 by default; they are dequantised one by one.

    Raises:
      ModelError: for a file that is no GGUF, damaged or cut short, of an architecture other than llama, qwen2, qwen3, gemma2 and
        gemma3, with a type of tensor that cannot be dequantised, with a tokenizer that is not known; without the package `gguf`.
    """
    require_path(path)
    dequantise.require_package()
    if is_remote(path):
        with local(path) as copy:
            return _read(copy, epath.Path(path).parent, param_dtype)
    return _read(pathlib.Path(path).expanduser(), epath.Path(path).expanduser().parent, param_dtype)


def _read(path: pathlib.Path, folder: epath.Path, param_dtype: Any) -> GGUF:
    headers = parts.read(path)
    for each in headers:
        dequantise.require_whole(each, str(each.path))
    where = _tensors_by_name(headers)
    shapes = {name: each.tensors[name].shape for name, each in where.items()}
    metadata = settings.Metadata(headers[0].metadata, str(path))
    settings.require_layers(metadata, shapes)
    their_names = {
        name: names.theirs(name, metadata.architecture, str(path)) for name in where if name != names.FACTORS
    }
    scaled = where.pop(names.FACTORS, None)
    factors = None if scaled is None else dequantise.dequantised(scaled, names.FACTORS, str(path), np.float32)
    values = settings.values(metadata, shapes, factors)
    own_tokenizer = _tokenizer(metadata, folder)
    dtype = jnp.dtype(jnp.float32 if param_dtype is None else param_dtype)
    tensors = {
        their_names[name]: names.tensor(each, name, str(each.path), values, dtype) for name, each in where.items()
    }
    return GGUF(values, tensors, own_tokenizer)


def _tensors_by_name(headers: list[Header]) -> dict[str, Header]:
    found: dict[str, Header] = {}
    for header in headers:
        for name in header.tensors:
            if name in found:
                raise ModelError(f"{header.path}: the tensor {name} is in another part, too.")
            found[name] = header
    return found


def _tokenizer(metadata: settings.Metadata, folder: epath.Path) -> Tokenizer | None:
    """The one beside the file, with what it does not say taken from the file; else the file's."""
    beside = tokenizer.read(folder) if (folder / tokenizer.WHOLE).is_file() else None
    return vocabulary.tokenizer_of(metadata) if beside is None else vocabulary.completed(beside, metadata)
