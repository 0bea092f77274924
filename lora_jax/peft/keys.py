"""The tensors of an adapter file by what they are: factors, parameters of the base, rows of tables; without the names that wrappers add.

Where PEFT wraps a module it may write it up to three times: `.weight` and `.modules_to_save.weight` are the trained one, and
`.original_module.weight` is the base's. Of a table with rows of its own it may write `.token_adapter.base_layer.weight` (the table),
`.trainable_tokens_delta` (the rows) and `.trainable_tokens_original` (those that the base had).
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from etils import epath

from lora_jax.errors import PeftError
from lora_jax.files import read_safetensors
from lora_jax.peft import tensors
from lora_jax.peft.names import PREFIX

TENSORS = "adapter_model.safetensors"
PICKLED = "adapter_model.bin"
ROWS = "token_adapter.trainable_tokens_delta"
COPIES = {
    ".original_module.": ".",
    ".token_adapter.trainable_tokens_original": f".{ROWS}",
}  # of the base -> of the trained
NO_WEIGHT = ".lora_velora_embed"  # what VeLoRA's backward pass keeps
LAYER = ".base_layer"
INNER = re.compile(r"\.base_layer(?=\.(?!base_layer\.|lora_))")  # of a module around another one that has the factors


class Found(NamedTuple):
    """What a file has, by torch path and key."""

    every: dict[str, np.ndarray]
    adapters: dict[
        str, dict[str, np.ndarray]
    ]  # torch path, ".base_layer" for each wrapper around it -> suffix -> tensor
    rows: dict[str, np.ndarray]  # torch path of a module -> rows of its weight
    others: dict[str, np.ndarray]  # key of a parameter of the base -> its value


def read(folder: epath.Path) -> Found:
    """The tensors of a folder.

    Raises:
      PeftError: for a folder without them, and for a tensor that is there twice with different numbers.
    """
    if not (folder / TENSORS).is_file():
        also = (
            f"; {PICKLED} is a pickle, which may run code: convert it in PEFT by save_pretrained(folder)"
            if (folder / PICKLED).is_file()
            else ""
        )
        raise PeftError(f"{folder}: there is no {TENSORS} in it{also}.")
    return grouped(_once(str(folder / TENSORS), read_safetensors(folder / TENSORS)))


def _once(file: str, stored: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Normalised key -> tensor, without the base's copies of what is there anew."""
    found: dict[str, np.ndarray] = {}
    wrapped: set[str] = set()
    for name in sorted(stored):
        key, is_copy = normalised(name), ".modules_to_save." in name
        if key not in found:
            found[key] = stored[name]
        elif not (is_copy or key in wrapped):
            raise PeftError(f"{file} has {key} twice, under two names.")
        elif not _are_equal(found[key], stored[name]):
            raise PeftError(f"{file} has {key} twice, under two names and with different numbers.")
        if is_copy:
            wrapped.add(key)
    return {key: tensor for key, tensor in found.items() if not _is_of_the_base(key, found)}


def _are_equal(one: np.ndarray, other: np.ndarray) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def _is_of_the_base(key: str, found: Mapping[str, np.ndarray]) -> bool:
    """Whether it is what the base had, of which the trained one is there too; or no weight at all."""
    return key.endswith(NO_WEIGHT) or any(
        mark in key and key.replace(mark, new) in found for mark, new in COPIES.items()
    )


def normalised(name: str) -> str:
    """A key without what wrappers add to it; ".base_layer" stays in those of factors, where it tells one wrapper from another.

    >>> normalised("base_model.model._orig_mod.layer.lora_A.default.weight"), normalised("classifier.modules_to_save.default.bias")
    ('layer.lora_A.weight', 'classifier.bias')
    >>> normalised("experts.base_layer.lora_B.weight"), normalised("dense.base_layer.bias"), normalised("a.base_layer.out.lora_B.weight")
    ('experts.base_layer.lora_B.weight', 'dense.bias', 'a.out.lora_B.weight')
    """
    name = name.removeprefix(PREFIX).replace("_orig_mod.", "")
    name = re.sub(r"\.(lora_[A-Za-z_]+|trainable_tokens_[a-z]+)\.default(?=\.|$)", r".\1", name)
    name = re.sub(r"\.modules_to_save(\.default)?\.", ".", name).replace(".token_adapter.base_layer.", ".")
    return INNER.sub("", name) if suffix_of(name) else name.replace(f"{LAYER}.", ".")


def suffix_of(key: str) -> str | None:
    """Which tensor of an adapter it is, if it is one."""
    return next((suffix for suffix in tensors.SUFFIXES if key.endswith(f".{suffix}")), None)


def grouped(every: dict[str, np.ndarray]) -> Found:
    """The tensors by what they are."""
    found = Found(every, {}, {}, {})
    for key, tensor in every.items():
        suffix = suffix_of(key)
        if suffix is not None:
            found.adapters.setdefault(key.removesuffix(f".{suffix}"), {})[suffix] = tensor
        elif key.endswith(f".{ROWS}"):
            found.rows[key.removesuffix(f".{ROWS}")] = tensor
        else:
            found.others[key] = tensor
    return found
