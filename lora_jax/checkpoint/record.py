"""What a checkpoint says of itself, and whether it is the one that is asked for."""

import contextlib
import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from lora_jax.checkpoint.fingerprints import SHOWN, fingerprint
from lora_jax.config import LoRAConfig
from lora_jax.errors import CheckpointError, DamagedError, first_line
from lora_jax.files import require_fields
from lora_jax.tree import differences

FORMAT = 1
SEAL = "seal"  # a digest of all else that it says of itself; checkpoints of the first versions have none
FIELDS = {
    "format": int,
    "config": dict | None,
    "base": str,
    "content": str,
    "run": str | None,
    "keys": dict[str, str],
    "empty": dict[str, list],
    SEAL: str,
}
REQUIRED = ("format", "config", "base", "content")


class Saved(NamedTuple):
    """A checkpoint as it was written."""

    arrays: dict[str, np.ndarray]
    about: dict[str, Any]
    where: str
    step: int


def about(
    arrays: Mapping[str, np.ndarray],
    config: LoRAConfig | None,
    base: str,
    run: str | None,
    keys: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """What a checkpoint says of its arrays.

    Args:
      keys: those that are the words of PRNG keys, with the algorithm's name.

    Raises:
      CheckpointError: for a run that is no string.
    """
    if run is not None and not (run and isinstance(run, str)):
        raise CheckpointError(f"run is {run!r}; it is a string that names the run, or None.")
    found = {
        "format": FORMAT,
        "config": None if config is None else config.to_dict(),
        "base": base,
        "content": fingerprint(arrays),
    }
    empty = {path: [str(array.dtype), *array.shape] for path, array in arrays.items() if not array.size}
    more = {"run": run, "keys": dict(keys or {}) or None, "empty": empty or None}
    found |= {name: value for name, value in more.items() if value is not None}
    return {**found, SEAL: seal(found)}


def seal(about: Mapping[str, Any]) -> str:
    """The digest of all else that it says."""
    said = {name: value for name, value in about.items() if name != SEAL}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def is_sealed(about: Mapping[str, Any]) -> bool:
    """Whether it says what was saved, and nothing beside."""
    return not about.keys() - FIELDS.keys() and about.get(SEAL, seal(about)) == seal(about)


def require_readable(about: Any, folder: str, step: int) -> None:
    """Raises DamagedError for what is no record or has a config that cannot be read, CheckpointError for one of a later format."""
    where = f"what the checkpoint {folder} says of itself"
    require_fields(about, where, {"format": int}, required=("format",), error=DamagedError)
    if about["format"] != FORMAT:
        raise CheckpointError(
            f"{folder} is of format {about['format']}, and this version of lora_jax reads format {FORMAT}; use the one that wrote it."
        )
    require_fields(about, where, FIELDS, required=REQUIRED, error=DamagedError)
    config_of(Saved({}, about, f"the checkpoint {folder}", step))


def require_leaves(saved: Saved, expected: Mapping[str, Any]) -> None:
    """Raises CheckpointError that lists every leaf that is missing, unexpected or mis-shaped."""
    problems = differences(expected, saved.arrays)
    if problems:
        raise CheckpointError(f"{saved.where} does not fit: {'; '.join(problems)}.")


def require_base(saved: Saved, base: str) -> None:
    """Raises CheckpointError where the fingerprint of the base is not the one that was saved."""
    if saved.about["base"] != base:
        raise CheckpointError(
            f"{saved.where} belongs to another base: it was made for {saved.about['base'][:SHOWN]}, this one is "
            f"{base[:SHOWN]}; load the base it was trained on, and give the tree that the save was given: the frozen part, say, and not the whole."
        )


def require_run(saved: Saved, run: str | None) -> None:
    """Raises CheckpointError where it was saved by another run, or by none."""
    found = saved.about.get("run")
    if found != run:
        there, here = (f"the run {name}" if name else "no run" for name in (found, run))
        raise CheckpointError(f"{saved.where} belongs to {there}, and is asked for by {here}.")


def config_of(saved: Saved) -> LoRAConfig | None:
    """The config that was saved; fields that are new since then have their defaults."""
    with _as_damage(saved):
        return None if saved.about["config"] is None else LoRAConfig.from_dict(saved.about["config"])


@contextlib.contextmanager
def _as_damage(saved: Saved):
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DamagedError(f"{saved.where} has a config that cannot be read ({first_line(error)}).") from error


def require_config(saved: Saved, config: LoRAConfig | None) -> None:
    """Raises CheckpointError that names the fields in which the config is not the one that was saved."""
    there, here = config_of(saved), config
    if there == here:
        return
    if there is None or here is None:
        raise CheckpointError(
            f"{saved.where} was saved {'with' if there else 'without'} a LoRA config, and this call {'gives none' if there else 'gives one'}."
        )
    old, new = there.to_dict(), here.to_dict()
    fields = [f"{name} is {old[name]!r} there and {new[name]!r} here" for name in new if old[name] != new[name]]
    raise CheckpointError(f"{saved.where} has another config: {'; '.join(fields)}.")
