"""config.json of a Hugging Face folder."""

import json
from typing import Any

from etils import epath

from lora_jax.errors import ModelError
from lora_jax.files import write_atomically

NAME = "config.json"


def read(folder: epath.Path, kind: str, *, assumed: str | None = None) -> tuple[epath.Path, dict[str, Any]]:
    """(the file, what it says); `assumed` is the architecture of a file that does not name one.

    Raises:
      ModelError: for a folder without it, one that cannot be read, or another architecture than `kind`.
    """
    file = folder / NAME
    if not file.is_file():
        raise ModelError(f"{folder}: there is no {NAME} in it; name a folder that `save_pretrained` wrote.")
    try:
        values = json.loads(file.read_text())
    except (ValueError, OSError) as error:
        raise ModelError(f"{file} cannot be read ({type(error).__name__}: {error}).") from error
    found = values.get("model_type", assumed) if isinstance(values, dict) else type(values).__name__
    if found != kind:
        raise ModelError(f"{file}: the architecture is {found!r}; only {kind!r} can be read here.")
    return file, values


def write(folder: epath.Path, values: dict[str, Any]) -> None:
    """Atomically, with sorted keys. Raises ModelError where it cannot be written."""
    write_atomically(folder / NAME, (json.dumps(values, indent=1, sort_keys=True) + "\n").encode())
