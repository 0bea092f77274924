"""Steps in a folder: written by orbax, and read back only where all is as it was written."""

import errno
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from lora_jax.checkpoint import digests, record, step_folders
from lora_jax.checkpoint.fingerprints import fingerprint
from lora_jax.checkpoint.record import Saved
from lora_jax.errors import CheckpointError, DamagedError, first_line
from lora_jax.files import is_remote, read_json, replacing

_TENSORSTORE = re.compile(r": ([^:]+) \[os_error_code=")  # how orbax's writer ends its message
KEPT = 2  # the newest
BESIDE_ARRAYS = 100_000  # bytes that a checkpoint takes beside its arrays, at most


def write(
    directory: str | epath.PathLike, step: Any, arrays: Mapping[str, np.ndarray], about: dict, *, overwrite: bool
) -> None:
    """Writes a step.

    Raises:
      CheckpointError: when it is there, or one after it, or the folder cannot be written.
    """
    directory = step_folders.absolute(directory)
    step = _require_step(step)
    there = step_folders.of(directory)
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
        for old in sorted(step_folders.of(directory))[:-KEPT]:
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


def _manager(directory: epath.Path) -> ocp.CheckpointManager:
    kept = KEPT if is_remote(directory) else None  # on a disk `_save` removes what is one too many
    options = ocp.CheckpointManagerOptions(max_to_keep=kept, enable_async_checkpointing=False)
    return ocp.CheckpointManager(directory, options=options)


def read(directory: str | epath.PathLike, step: int | None) -> Saved:
    """A step, the newest by default, verified against its digest.

    Raises:
      CheckpointError: when there is none, or it is of a later format; DamagedError where it is not as it was written.
    """
    directory = step_folders.absolute(directory)
    there = step_folders.of(directory)
    step = max(there, default=None) if step is None else _require_step(step)
    if step not in there:
        raise CheckpointError(
            f"no checkpoint {'' if step is None else f'of step {step} '}in {directory}; "
            f"there {'are steps ' + ', '.join(map(str, sorted(there))) if there else 'is none' + step_folders.below(directory)}."
        )
    step = int(step)
    about, arrays = _read(directory, step)
    return Saved(arrays, about, f"the checkpoint {directory / str(step)}", step)


def _read(directory: epath.Path, step: int) -> tuple[dict, dict[str, np.ndarray]]:
    found = _said(directory, step)
    try:
        changed = digests.changed(directory / str(step))
    except DamagedError as error:
        raise step_folders.damaged(directory, step, first_line(error).rstrip(".")) from error
    if changed:
        raise step_folders.damaged(directory, step, f"{digests.ARRAYS}/{changed} is missing or changed")
    try:
        arrays = _arrays(directory, step, found)
        content = fingerprint(arrays)
    except Exception as error:  # orbax and tensorstore raise many kinds; each means that this step cannot be read
        raise step_folders.damaged(directory, step, f"{type(error).__name__}") from error
    if found["content"] != content:
        raise step_folders.damaged(directory, step, "its arrays do not have the digest they were saved with")
    return found, arrays


def _said(directory: epath.Path, step: int) -> dict[str, Any]:
    """What a step says of itself, as orbax keeps it, once it is as it was saved."""
    try:
        found = read_json(directory / str(step) / "about" / "metadata", error=DamagedError)
    except DamagedError as error:
        raise step_folders.damaged(directory, step, first_line(error).rstrip(".")) from error
    record.require_readable(found, f"{directory / str(step)}", step)
    if not record.is_sealed(found):
        raise step_folders.damaged(directory, step, "what it says of its config, base and run is not what was saved")
    return found


def _arrays(directory: epath.Path, step: int, found: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """By path, those without an entry from what the step says of them."""
    empty = found.get("empty", {})
    arrays = ocp.StandardCheckpointer().restore(directory / str(step) / "arrays")
    read = {path: np.asarray(leaf) for path, leaf in arrays.items()}
    return read | {path: np.zeros(shape, jax.numpy.dtype(dtype)) for path, (dtype, *shape) in empty.items()}
