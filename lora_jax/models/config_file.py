"""config.json of a Hugging Face folder."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from lora_jax.errors import ModelError
from lora_jax.files import read_json, require_fields

NAME = "config.json"
MAX_BYTES = 2**24  # of the largest one that is known, with 100,000 labels, a sixth
MAX_SIZE = 2**31 - 1  # of an axis


def read(folder: epath.Path) -> tuple[epath.Path, dict[str, Any]]:
    """(the file, what it says).

    Raises:
      ModelError: for a folder without it, one that cannot be read, an integer that no axis can have, or weights that are quantised.
    """
    file = folder / NAME
    if not file.is_file():
        raise ModelError(f"{folder}: there is no {NAME} in it; name a folder that `save_pretrained` wrote.")
    fields = {"model_type": str | None, "quantization_config": dict | None}
    values = require_fields(read_json(file, max_bytes=MAX_BYTES), str(file), fields)
    if values.get("quantization_config"):
        way = values["quantization_config"].get("quant_method", "no quant_method is said")
        raise ModelError(
            f"{file}: quantization_config says that the weights are quantised ({way}); take the model that they were made of, or its .gguf."
        )
    for name, value in values.items():
        if isinstance(value, int) and abs(value) > MAX_SIZE:
            raise ModelError(f"{file}: {name} is {value:,}; it must be at most {MAX_SIZE:,}.")
    return file, values


def require_kind(file: Any, values: Mapping[str, Any], kinds: Sequence[str], *, assumed: str | None = None) -> str:
    """The architecture. Raises ModelError for one that is not among `kinds`; where the file does not name one it is `assumed`."""
    found = values.get("model_type") or assumed
    if found not in kinds:
        raise ModelError(f"{file}: the architecture is {found!r}; what can be read here is {', '.join(kinds)}.")
    return found


def content(values: Mapping[str, Any]) -> bytes:
    """The file that says these values, with sorted keys."""
    return (json.dumps(values, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()
