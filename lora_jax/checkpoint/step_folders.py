"""Which steps a folder has: a name that is a number, and all that orbax writes."""

import re

from etils import epath

from lora_jax.errors import CheckpointError, DamagedError
from lora_jax.files import is_remote, require_path

PARTS = (
    "arrays",
    "about",
)  # what is in a step's folder; a folder of a user's that is called by a number has none of them
COMMITTED = "commit_success.txt"  # what orbax writes last in a bucket
_OF_PEFT = "adapter_config.json"  # what a folder of PEFT has
_STEP = re.compile("0|[1-9][0-9]*")


def steps(directory: str | epath.PathLike) -> list[int]:
    """The complete checkpoints, oldest first.

    >>> steps("/no/such/folder")
    []
    """
    return sorted(of(epath.Path(require_path(directory, CheckpointError))))


def latest_step(directory: str | epath.PathLike) -> int | None:
    """The newest complete checkpoint's step; None where there is none.

    >>> print(latest_step("/no/such/folder"))
    None
    """
    return max(of(epath.Path(require_path(directory, CheckpointError))), default=None)


def of(directory: epath.Path) -> set[int]:
    """Complete checkpoints; one being written has a longer name, or in a bucket no `COMMITTED` yet."""
    if not directory.is_dir():
        return set()
    return {int(entry.name) for entry in directory.iterdir() if _STEP.fullmatch(entry.name) and _is_whole(entry)}


def _is_whole(step: epath.Path) -> bool:
    return (step / COMMITTED).exists() if is_remote(step) else any((step / part).is_dir() for part in PARTS)


def absolute(directory: str | epath.PathLike) -> epath.Path:
    """As orbax wants it; a bucket's path (gs://...) is so already."""
    directory = epath.Path(require_path(directory, CheckpointError))
    return directory if is_remote(directory) else directory.absolute()


def damaged(directory: epath.Path, step: int, why: str) -> DamagedError:
    """The error for a step that is not as it was written."""
    others = sorted(of(directory) - {step})
    advice = (
        f"step {others[-1]} is there too: pass step={others[-1]}" if others else "there is no other step; train again"
    )
    return DamagedError(f"the checkpoint {directory / str(step)} is damaged ({why}); {advice}.")


def below(directory: epath.Path) -> str:
    """What to name instead, where a folder inside this one has checkpoints, or this is a step itself."""
    if _STEP.fullmatch(directory.name) and (directory / "arrays").is_dir():
        return f", as it is a checkpoint itself: name {directory.parent}"
    if (directory / _OF_PEFT).is_file():
        return ", as it is a folder of PEFT: read it by lora_jax.peft.load"
    if not directory.is_dir() or is_remote(directory):
        return ""
    inside = next((entry for entry in sorted(directory.iterdir()) if entry.is_dir() and of(entry)), None)
    return "" if inside is None else f", but {inside} has some"
