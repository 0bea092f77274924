"""A digest of each file of a step, so that one that was changed or lost is told before its reader meets it.

orbax reads all arrays at once in threads: what one damaged file does to the others it says at length, and late.
"""

import hashlib
import json

from etils import epath

from lora_jax.errors import DamagedError
from lora_jax.files import read_json, require_fields, write_atomically

NAME = "digests.json"
ARRAYS = "arrays"


def write(step: epath.Path) -> None:
    """Notes the files of a step's arrays, once they are whole."""
    write_atomically(step / NAME, json.dumps({"files": _of(step / ARRAYS)}, indent=1, sort_keys=True).encode())


def changed(step: epath.Path) -> str:
    """The first file that is not as it was noted; "" where all are, or nothing is noted (a kill came before, or an earlier version wrote it).

    Raises:
      DamagedError: where the note itself cannot be read.
    """
    file = step / NAME
    if not file.is_file():
        return ""
    fields = {"files": dict[str, str]}
    said = require_fields(
        read_json(file, error=DamagedError), str(file), fields, required=("files",), error=DamagedError
    )
    found = _of(step / ARRAYS)
    names = sorted(said["files"].keys() | found.keys())
    return next((name for name in names if said["files"].get(name) != found.get(name)), "")


def _of(folder: epath.Path) -> dict[str, str]:
    """Path below the folder -> SHA-256."""
    found: dict[str, str] = {}
    for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
        if entry.is_dir():
            found |= {f"{entry.name}/{name}": digest for name, digest in _of(entry).items()}
        else:
            found[entry.name] = hashlib.sha256(entry.read_bytes()).hexdigest()
    return found
