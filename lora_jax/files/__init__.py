"""Files: the one way to write them, whole or not at all; the one way to read JSON; tensors in the safetensors format."""

from lora_jax.files.folders import write_folder
from lora_jax.files.json_text import fits, parse, read_json, require_fields
from lora_jax.files.paths import is_remote, local, require_path
from lora_jax.files.replacing import append_line, flush, replace_folder, write_atomically
from lora_jax.files.tensors import as_safetensors, read_safetensors

__all__ = [
    "append_line",
    "as_safetensors",
    "fits",
    "flush",
    "is_remote",
    "local",
    "parse",
    "read_json",
    "read_safetensors",
    "replace_folder",
    "require_fields",
    "require_path",
    "write_atomically",
    "write_folder",
]
