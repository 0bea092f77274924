"""config.json of a Hugging Face folder."""

import json
from collections.abc import Mapping
from typing import Any

from etils import epath

from lora_jax.errors import ModelError
from lora_jax.files import read_json, require_fields

NAME = "config.json"
MAX_BYTES = 2**24  # of the largest one that is known, with 100,000 labels, a sixth
MAX_SIZE = 2**31 - 1  # of an axis


def read(
    folder: epath.Path, kind: str, fields: Mapping[str, Any], *, assumed: str | None = None
) -> tuple[epath.Path, dict[str, Any]]:
    """(the file, what it says).

    Args:
      kind: the architecture.
      fields: name -> type of what will be read, as for `require_fields`.
      assumed: the architecture of a file that does not name one.

    Raises:
      ModelError: for a folder without it, one that cannot be read, another architecture than `kind`, or a field of another type.
    """
    file = folder / NAME
    if not file.is_file():
        raise ModelError(f"{folder}: there is no {NAME} in it; name a folder that `save_pretrained` wrote.")
    values = require_fields(read_json(file, max_bytes=MAX_BYTES), str(file), {"model_type": str | None})
    found = values.get("model_type") or assumed
    if found != kind:
        raise ModelError(f"{file}: the architecture is {found!r}; only {kind!r} can be read here.")
    require_fields(values, str(file), fields)
    for name in (name for name, value in values.items() if name in fields and isinstance(value, int)):
        if abs(values[name]) > MAX_SIZE:
            raise ModelError(f"{file}: {name} is {values[name]:,}; at most {MAX_SIZE:,} can be.")
    return file, values


def content(values: Mapping[str, Any]) -> bytes:
    """The file that says these values, with sorted keys."""
    return (json.dumps(values, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()
