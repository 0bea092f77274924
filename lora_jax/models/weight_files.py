"""Tensors in a Hugging Face folder: model.safetensors (also sharded), or pytorch_model.bin where torch is installed."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from etils import epath

from lora_jax.errors import ModelError, first_line
from lora_jax.files import as_safetensors, local, read_json, read_safetensors, require_fields, write_folder
from lora_jax.models import config_file

SAFE, INDEX, PICKLED = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"
FILES = (
    *(SAFE, INDEX, "model-*.safetensors", "config.json", "generation_config.json", "tokenizer.json"),
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja"),
    *("vocab.txt", "vocab.json", "merges.txt"),
)

BUCKETS = ("gs://", "s3://")  # that etils.epath reads


def locate(name: str | os.PathLike) -> epath.Path:
    """The local folder of a model: `name` itself, or what `huggingface_hub` has in its cache or fetches.

    The hub's own settings hold (HF_HOME, HF_HUB_OFFLINE ...). `pytorch_model.bin` is fetched only where the hub has
    no safetensors.

    Raises:
      ModelError: when there is neither such a folder nor such a model within reach.
    """
    if not str(name):
        raise ModelError("the model's name is empty: give a folder, or a name on the Hugging Face hub (owner/model).")
    no_name = f"{name}: there is no such folder, and it is no name on the Hugging Face hub (owner/model)."
    if "://" in str(name) and not str(name).startswith(BUCKETS):
        raise ModelError(no_name)
    path = epath.Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise ModelError(
            f"{name} is a file; name the folder that it lies in, with config.json and the weights, or a .gguf file."
        )
    try:
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    except ImportError:
        raise ModelError(
            f"{name}: there is no such folder here, and without huggingface_hub the Hugging Face hub is not asked: pip install huggingface_hub."
        ) from None
    try:
        return _fetched(str(name))
    except HFValidationError as error:
        raise ModelError(no_name) from error
    except HfHubHTTPError as error:
        raise ModelError(
            f"{name}: no such folder here, and the Hugging Face hub answers {first_line(error)}"
        ) from error
    except Exception as error:  # offline mode, no cache, no network: the hub's and its HTTP library's many kinds
        raise ModelError(
            f"{name}: no such folder here, not in the Hugging Face cache, and the hub cannot be reached "
            f"({type(error).__name__}); download it where there is a network and name its folder."
        ) from error


def _fetched(name: str) -> epath.Path:
    import huggingface_hub

    folder = epath.Path(huggingface_hub.snapshot_download(name, allow_patterns=list(FILES)))
    if not (folder / SAFE).is_file() and not (folder / INDEX).is_file():
        return epath.Path(huggingface_hub.snapshot_download(name, allow_patterns=[PICKLED]))  # beside the others
    return folder


def read(folder: epath.Path) -> dict[str, np.ndarray]:
    """All tensors of a folder by name.

    Raises:
      ModelError: when there are none, they cannot be read, or only a pickle is there and torch is not.
    """
    if (folder / SAFE).is_file():
        return read_safetensors(folder / SAFE)
    if (folder / INDEX).is_file():
        return _read_shards(folder, _shards(folder / INDEX))
    if (folder / PICKLED).is_file():
        return _read_pickled(folder / PICKLED)
    raise ModelError(f"{folder}: there are no weights in it, neither {SAFE} nor {PICKLED}.")


def _shards(index: epath.Path) -> list[str]:
    """The names of the files that an index names."""
    fields = {"weight_map": dict[str, str]}
    said = require_fields(read_json(index), str(index), fields, required=tuple(fields))
    return sorted({pathlib.PurePath(shard).name for shard in said["weight_map"].values()})


def _read_shards(folder: epath.Path, shards: list[str]) -> dict[str, np.ndarray]:
    tensors: dict[str, np.ndarray] = {}
    for shard in shards:
        found = read_safetensors(folder / shard)
        twice = sorted(found.keys() & tensors.keys())
        if twice:
            raise ModelError(f"{folder}: {twice[0]} is in two of its files; fetch them again.")
        tensors |= found
    return tensors


def _read_pickled(file: epath.Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError:
        raise ModelError(
            f"{file} needs torch to be read; pip install torch, or convert it on a machine with torch: "
            f"model.save_pretrained(folder, safe_serialization=True) writes {SAFE}."
        ) from None
    try:
        with local(file) as path:
            tensors = torch.load(path, map_location="cpu", weights_only=True)  # never runs code from the file
        return {name: _as_numpy(tensor.detach()) for name, tensor in tensors.items()}
    except Exception as error:  # torch raises many kinds; AttributeError where it is no dict of tensors
        raise ModelError(f"{file} cannot be read ({type(error).__name__}: {first_line(error)}).") from error


def _as_numpy(tensor: Any) -> np.ndarray:
    """A torch tensor; one in 16 bits stays so (numpy itself knows no bfloat16)."""
    narrow = {"torch.bfloat16": jnp.bfloat16, "torch.float16": jnp.float16}.get(str(getattr(tensor, "dtype", "")))
    array = tensor.float().numpy()
    return array if narrow is None else array.astype(narrow)


def write(
    folder: epath.Path, tensors: Mapping[str, np.ndarray], about: Mapping[str, Any], beside: Mapping[str, bytes]
) -> None:
    """Writes model.safetensors, config.json and what is `beside` them, all or none. Raises ModelError where they cannot be written."""
    write_folder(folder, {SAFE: as_safetensors(tensors), **beside, config_file.NAME: config_file.content(about)})
