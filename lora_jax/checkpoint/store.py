"""Steps in a folder: written by orbax, and read back only where all is as it was written."""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from lora_jax.checkpoint import digests
from lora_jax.checkpoint.fingerprints import SHOWN, fingerprint
from lora_jax.config import LoRAConfig
from lora_jax.errors import CheckpointError, DamagedError, first_line
from lora_jax.files import is_remote, read_json, replacing, require_fields, require_path
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
PARTS = (
    "arrays",
    "about",
)  # what is in a step's folder; a folder of a user's that is called by a number has none of them
COMMITTED = "commit_success.txt"  # what orbax writes last in a bucket
_TENSORSTORE = re.compile(r": ([^:]+) \[os_error_code=")  # how orbax's writer ends its message
_OF_PEFT = "adapter_config.json"  # what a folder of PEFT has
_STEP = re.compile("0|[1-9][0-9]*")
KEPT = 2  # the newest
BESIDE_ARRAYS = 100_000  # bytes that a checkpoint takes beside its arrays, at most


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
    return {**found, SEAL: _seal(found)}


def _seal(about: Mapping[str, Any]) -> str:
    said = {name: value for name, value in about.items() if name != SEAL}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def steps(directory: str | epath.PathLike) -> list[int]:
    """The complete checkpoints, oldest first.

    >>> steps("/no/such/folder")
    []
    """
    return sorted(_steps(epath.Path(require_path(directory, CheckpointError))))


def latest_step(directory: str | epath.PathLike) -> int | None:
    """The newest complete checkpoint's step; None where there is none.

    >>> print(latest_step("/no/such/folder"))
    None
    """
    return max(_steps(epath.Path(require_path(directory, CheckpointError))), default=None)


def write(
    directory: str | epath.PathLike, step: Any, arrays: Mapping[str, np.ndarray], about: dict, *, overwrite: bool
) -> None:
    """Writes a step.

    Raises:
      CheckpointError: when it is there, or one after it, or the folder cannot be written.
    """
    directory = _absolute(directory)
    step = _require_step(step)
    there = _steps(directory)
    if all(not array.size for array in arrays.values()):
        raise CheckpointError("there is nothing to save: the tree has no array with an entry.")
    if step not in there and not is_remote(directory) and os.path.lexists(directory / str(step)):
        raise CheckpointError(
            f"{directory / str(step)} is there and is no checkpoint, so that step {step} has no place; give another step, or another folder."
        )
    if there and step <= max(there) and not (overwrite and step in there):
        _refuse(directory, step, there)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if not is_remote(directory):
            replacing.remove_abandoned(Path(directory))
            _require_room(Path(directory), arrays)
        if step in there:
            _replace(directory, step, arrays, about)
        else:
            _save(directory, step, arrays, about)
    except (OSError, ValueError) as error:  # tensorstore raises ValueError where the disk is full
        reason = _TENSORSTORE.search(str(error))
        why = reason[1] if reason else getattr(error, "strerror", None) or first_line(error)
        raise CheckpointError(f"cannot write a checkpoint to {directory}: {why}.") from error


def _require_room(directory: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Raises OSError where the disk is too full: orbax finds that out in the midst of its threads, and says it at length."""
    needed = sum(array.nbytes for array in arrays.values()) + BESIDE_ARRAYS
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {needed:,} bytes are needed, and {free:,} are free")


def _require_step(step: Any) -> int:
    if isinstance(step, bool) or not isinstance(step, (int, np.integer)) or step < 0:
        raise CheckpointError(f"step is {step!r}; it must be an integer of 0 or more.")
    return int(step)


def _refuse(directory: epath.Path, step: int, there: set[int]) -> None:
    advice = f"or pass overwrite=True to replace step {step}" if step in there else "or name another folder"
    raise CheckpointError(
        f"step is {step}, and {directory} has step {max(there)}; the next checkpoint in it is at least step {max(there) + 1}, {advice}."
    )


def _save(directory: epath.Path, step: int, arrays: Mapping[str, np.ndarray], about: dict) -> None:
    full = {path: array for path, array in arrays.items() if array.size}  # orbax takes no empty ones
    with _manager(directory) as manager:
        manager.save(
            step,
            args=ocp.args.Composite(arrays=ocp.args.StandardSave(full), about=ocp.args.JsonSave(about)),
            force=True,  # also beside folders of a user's that are called by numbers
        )
    if jax.process_index() == 0:
        digests.write(directory / str(step))
    if not is_remote(directory) and jax.process_index() == 0:
        replacing.flush_tree(Path(directory / str(step)))
        replacing.flush(Path(directory))
        for old in sorted(_steps(directory))[:-KEPT]:
            _remove(Path(directory), old)


def _remove(directory: Path, step: int) -> None:
    """Under another name first: half a step is none."""
    aside = replacing.temporary_name(directory, str(step))
    (directory / str(step)).rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def _replace(directory: epath.Path, step: int, arrays: Mapping[str, np.ndarray], about: dict) -> None:
    """Writes a step anew beside the old one, and exchanges the two; in a bucket, which cannot, the old one goes first."""
    if is_remote(directory):
        (directory / str(step)).rmtree()
        _save(directory, step, arrays, about)
        return
    if jax.process_count() > 1:
        raise CheckpointError("overwrite=True replaces a step in a single process; of several, save the next step.")
    new = replacing.temporary_name(Path(directory), str(step))
    try:
        _save(epath.Path(new), step, arrays, about)
        replacing.replace_folder(new / str(step), Path(directory / str(step)))
    finally:
        shutil.rmtree(new, ignore_errors=True)


def read(directory: str | epath.PathLike, step: int | None) -> Saved:
    """A step, the newest by default, verified against its digest.

    Raises:
      CheckpointError: when there is none, or it is of a later format; DamagedError where it is not as it was written.
    """
    directory = _absolute(directory)
    there = _steps(directory)
    step = max(there, default=None) if step is None else _require_step(step)
    if step not in there:
        raise CheckpointError(
            f"no checkpoint {'' if step is None else f'of step {step} '}in {directory}; "
            f"there {'are steps ' + ', '.join(map(str, sorted(there))) if there else 'is none' + _below(directory)}."
        )
    step = int(step)
    about, arrays = _read(directory, step)
    return Saved(arrays, about, f"the checkpoint {directory / str(step)}", step)


def _below(directory: epath.Path) -> str:
    """What to name instead, where a folder inside this one has checkpoints, or this is a step itself."""
    if _STEP.fullmatch(directory.name) and (directory / "arrays").is_dir():
        return f", as it is a checkpoint itself: name {directory.parent}"
    if (directory / _OF_PEFT).is_file():
        return ", as it is a folder of PEFT: read it by lora_jax.peft.load"
    if not directory.is_dir() or is_remote(directory):
        return ""
    inside = next((entry for entry in sorted(directory.iterdir()) if entry.is_dir() and _steps(entry)), None)
    return "" if inside is None else f", but {inside} has some"


def _read(directory: epath.Path, step: int) -> tuple[dict, dict[str, np.ndarray]]:
    found = _said(directory, step)
    try:
        changed = digests.changed(directory / str(step))
    except DamagedError as error:
        raise damaged(directory, step, first_line(error).rstrip(".")) from error
    if changed:
        raise damaged(directory, step, f"{digests.ARRAYS}/{changed} is missing or changed")
    try:
        arrays = _arrays(directory, step, found)
        content = fingerprint(arrays)
    except Exception as error:  # orbax and tensorstore raise many kinds; each means that this step cannot be read
        raise damaged(directory, step, f"{type(error).__name__}") from error
    if found["content"] != content:
        raise damaged(directory, step, "its arrays do not have the digest they were saved with")
    return found, arrays


def _said(directory: epath.Path, step: int) -> dict[str, Any]:
    """What a step says of itself, as orbax keeps it, once it is as it was saved."""
    try:
        found = read_json(directory / str(step) / "about" / "metadata", error=DamagedError)
    except DamagedError as error:
        raise damaged(directory, step, first_line(error).rstrip(".")) from error
    where = f"what the checkpoint {directory / str(step)} says of itself"
    require_fields(found, where, {"format": int}, required=("format",), error=DamagedError)
    if found["format"] != FORMAT:
        raise CheckpointError(
            f"{directory / str(step)} is of format {found['format']}, and this version of lora_jax reads format {FORMAT}; use the one that wrote it."
        )
    require_fields(found, where, FIELDS, required=REQUIRED, error=DamagedError)
    config_of(Saved({}, found, f"the checkpoint {directory / str(step)}", step))  # says what is wrong, where it can
    strange = sorted(found.keys() - FIELDS.keys())
    if strange or found.get(SEAL, _seal(found)) != _seal(found):
        raise damaged(directory, step, "what it says of its config, base and run is not what was saved")
    return found


def _arrays(directory: epath.Path, step: int, found: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """By path, those without an entry from what the step says of them."""
    empty = found.get("empty", {})
    arrays = ocp.StandardCheckpointer().restore(directory / str(step) / "arrays")
    read = {path: np.asarray(leaf) for path, leaf in arrays.items()}
    return read | {path: np.zeros(shape, jax.numpy.dtype(dtype)) for path, (dtype, *shape) in empty.items()}


def damaged(directory: epath.Path, step: int, why: str) -> DamagedError:
    """The error for a step that is not as it was written."""
    others = sorted(_steps(directory) - {step})
    advice = (
        f"step {others[-1]} is there too: pass step={others[-1]}" if others else "there is no other step; train again"
    )
    return DamagedError(f"the checkpoint {directory / str(step)} is damaged ({why}); {advice}.")


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


def _absolute(directory: str | epath.PathLike) -> epath.Path:
    """As orbax wants it; a bucket's path (gs://...) is so already."""
    directory = epath.Path(require_path(directory, CheckpointError))
    return directory if is_remote(directory) else directory.absolute()


def _steps(directory: epath.Path) -> set[int]:
    """Complete checkpoints; one being written has a longer name, or in a bucket no `COMMITTED` yet."""
    if not directory.is_dir():
        return set()
    return {int(entry.name) for entry in directory.iterdir() if _STEP.fullmatch(entry.name) and _is_whole(entry)}


def _is_whole(step: epath.Path) -> bool:
    return (step / COMMITTED).exists() if is_remote(step) else any((step / part).is_dir() for part in PARTS)


def _manager(directory: epath.Path) -> ocp.CheckpointManager:
    kept = KEPT if is_remote(directory) else None  # on a disk `_save` removes what is one too many
    options = ocp.CheckpointManagerOptions(max_to_keep=kept, enable_async_checkpointing=False)
    return ocp.CheckpointManager(directory, options=options)
