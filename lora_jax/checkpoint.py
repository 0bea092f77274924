"""Checkpoints through orbax: adapters only by default, bound to their base and config, restored strictly or not at all.

A checkpoint of step n is the folder `<directory>/n`. orbax writes it under another name and renames it when it is
whole, or in a bucket, where no folder can be renamed, writes a file last that says so: a kill during saving leaves the
previous one usable. Beside the arrays lie the config, a fingerprint of the base they belong to, and a digest of the
arrays themselves.
"""

import hashlib
import re
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from lora_jax.config import LoRAConfig
from lora_jax.errors import CheckpointError, DamagedError
from lora_jax.files import is_remote
from lora_jax.keys import escaped
from lora_jax.leaves import is_adapter_leaf
from lora_jax.mesh import fetch, is_key
from lora_jax.partition import Mask, trainable_paths
from lora_jax.tree import Params, differences, flat, nested

FORMAT = 1
COMMITTED = "commit_success.txt"  # what orbax writes last in a bucket
_TENSORSTORE = re.compile(r": ([^:]+) \[os_error_code=")  # how orbax's writer ends its message
_NAME_WIDTH = 12  # characters of a fingerprint shown in messages


def fingerprint(tree: Any) -> str:
    """SHA-256 over the paths, shapes, dtypes and bytes of a tree's leaves, whatever their order.

    >>> fingerprint({"a": np.zeros(2), "b": np.ones(1)}) == fingerprint({"b": np.ones(1), "a": np.zeros(2)})
    True
    """
    digest = hashlib.sha256()
    for path, leaf in sorted(_leaves(tree).items()):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{path} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def save_adapter(
    directory: str | epath.PathLike, params: Params, config: LoRAConfig, *, mask: Mask | None, step: int = 0
) -> None:
    """Saves the adapters, and the heads that `mask` trains, with the config and a fingerprint of the rest of the base.

    `mask` must be given, so that a head is never forgotten: the mask that trained, or None for the adapters alone. The two newest
    checkpoints are kept.

    Raises:
      CheckpointError: when the folder cannot be written, or holds this step or a later one already.

    >>> import tempfile
    >>> adapter = {"lora_a": np.ones((3, 1), np.float32), "lora_b": np.ones((1, 2), np.float32), "lora_scale": np.ones(())}
    >>> params, config = {"kernel": np.ones((3, 2)), **adapter}, LoRAConfig(rank=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_adapter(folder, params, config, mask=None, step=7)
    ...     latest_step(folder)
    7
    """
    saved, base = _split(params, mask)
    _write(directory, step, saved, config, base)


def restore_adapter(
    directory: str | epath.PathLike,
    params: Params,
    config: LoRAConfig,
    *,
    mask: Mask | None = None,
    step: int | None = None,
) -> dict:
    """`params` with its adapters (and heads that `mask` trains) replaced by the saved ones; all or nothing.

    Args:
      directory: where `save_adapter` wrote.
      params: an adapted tree of the same base, e.g. fresh from `lora_jax.adapt`; not changed.
      config: the config it was made with; must equal the saved one.
      mask: must train the same heads as the saved one did.
      step: the newest by default.

    Raises:
      CheckpointError: when there is none, it is damaged, it belongs to another base or config, or any leaf is missing,
        unexpected or mis-shaped (all of them are listed).

    >>> import tempfile
    >>> adapter = {"lora_a": np.ones((3, 1), np.float32), "lora_b": np.ones((1, 2), np.float32), "lora_scale": np.ones(())}
    >>> params, config = {"kernel": np.ones((3, 2)), **adapter}, LoRAConfig(rank=1)
    >>> fresh = {**params, "lora_b": np.zeros((1, 2), np.float32)}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_adapter(folder, params, config, mask=None)
    ...     restore_adapter(folder, fresh, config)["lora_b"].tolist()
    [[1.0, 1.0]]
    """
    expected, base = _split(params, mask)
    restored = _read(directory, step, expected, config, base)
    return nested({**flat(params), **{path: jax.numpy.asarray(leaf) for path, leaf in restored.items()}})


def save_state(
    directory: str | epath.PathLike, state: Any, frozen: Any, config: LoRAConfig | None, *, step: int
) -> None:
    """Saves a whole training state (parameters, optimiser, PRNG keys, counters), bound to its frozen tree and config.

    Raises:
      CheckpointError: as `save_adapter`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_state(folder, {"lora_b": np.ones(2), "key": jax.random.key(3)}, {"kernel": np.ones(2)}, None, step=1)
    ...     latest_step(folder)
    1
    """
    _write(directory, step, _leaves(state), config, frozen)


def restore_state(
    directory: str | epath.PathLike, like: Any, frozen: Any, config: LoRAConfig | None, *, step: int | None = None
) -> Any:
    """The training state that `save_state` wrote, in the structure of `like` (a fresh state); training goes on bitwise.

    Raises:
      CheckpointError: as `restore_adapter`.

    >>> import tempfile
    >>> frozen = {"kernel": np.ones(2)}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_state(folder, {"lora_b": np.full(2, 5.0), "key": jax.random.key(3)}, frozen, None, step=1)
    ...     state = restore_state(folder, {"lora_b": np.zeros(2), "key": jax.random.key(0)}, frozen, None)
    >>> state["lora_b"].tolist(), bool(state["key"] == jax.random.key(3))
    ([5.0, 5.0], True)
    """
    restored = _read(directory, step, _leaves(like), config, frozen)
    leaves, structure = jax.tree_util.tree_flatten_with_path(like)
    values = [_as_leaf(restored[name], leaf) for name, (_, leaf) in zip(_names(leaves), leaves, strict=True)]
    return jax.tree_util.tree_unflatten(structure, values)


def steps(directory: str | epath.PathLike) -> list[int]:
    """The complete checkpoints, oldest first.

    >>> steps("/no/such/folder")
    []
    """
    return sorted(_steps(epath.Path(directory)))


def latest_step(directory: str | epath.PathLike) -> int | None:
    """The newest complete checkpoint's step; None where there is none.

    >>> print(latest_step("/no/such/folder"))
    None
    """
    steps = _steps(epath.Path(directory))
    return max(steps) if steps else None


def _split(params: Params, mask: Mask | None) -> tuple[dict, dict]:
    """(what is saved, the base it belongs to), flat: adapters and trained heads, and everything else."""
    heads = set() if mask is None else trainable_paths(mask, params)
    saved = {p: leaf for p, leaf in flat(params).items() if is_adapter_leaf(p) or p in heads}
    base = {p: leaf for p, leaf in flat(params).items() if p not in saved}
    return saved, base


def _names(leaves: list[tuple[tuple, Any]]) -> list[str]:
    """Of each leaf its own; of two whose keys with "/" between them read the same, as a "/" inside a key can have it, the second is told apart."""
    names: dict[str, None] = {}
    for path, _ in leaves:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        parts = (escaped(jax.tree_util.keystr((key,), simple=True)) for key in path)
        names["/".join(parts) if name in names else name] = None
    return list(names)


def _leaves(tree: Any) -> dict[str, np.ndarray]:
    """Flat numpy arrays; typed PRNG keys as their words."""
    found = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {name: fetch(leaf) for name, (_, leaf) in zip(_names(found), found, strict=True)}


def _as_leaf(value: np.ndarray, like: Any) -> jax.Array:
    if is_key(like):
        return jax.random.wrap_key_data(jax.numpy.asarray(value), impl=jax.random.key_impl(like))
    return jax.numpy.asarray(value)


def _write(directory, step: int, leaves: dict[str, Any], config: LoRAConfig | None, base: Any) -> None:
    directory = _absolute(directory)
    newest = max(_steps(directory), default=-1)
    if step <= newest:
        raise CheckpointError(f"step is {step}; the next checkpoint in {directory} is at least step {newest + 1}.")
    arrays = {path: fetch(leaf) for path, leaf in leaves.items()}
    about = {
        "format": FORMAT,
        "config": None if config is None else config.to_dict(),
        "base": fingerprint(base),
        "content": fingerprint(arrays),
    }
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with _manager(directory) as manager:
            manager.save(
                step, args=ocp.args.Composite(arrays=ocp.args.StandardSave(arrays), about=ocp.args.JsonSave(about))
            )
    except (OSError, ValueError) as error:  # tensorstore raises ValueError where the disk is full
        reason = _TENSORSTORE.search(str(error))
        why = reason[1] if reason else getattr(error, "strerror", None) or str(error)
        raise CheckpointError(f"cannot write a checkpoint to {directory}: {why}.") from error


def _read(directory, step: int | None, expected: dict, config: LoRAConfig | None, base: Any) -> dict[str, np.ndarray]:
    directory = _absolute(directory)
    steps = _steps(directory)
    step = max(steps, default=None) if step is None else step
    if step not in steps:
        raise CheckpointError(
            f"no checkpoint {'' if step is None else f'of step {step} '}in {directory}; "
            f"there {'are steps ' + ', '.join(map(str, sorted(steps))) if steps else 'is none'}."
        )
    arrays, about = _load(directory, step)
    where = f"the checkpoint {directory / str(step)}"
    _check_config(where, about["config"], config)
    problems = differences(expected, arrays)
    if problems:
        raise CheckpointError(f"{where} does not fit: {'; '.join(problems)}.")
    if about["base"] != fingerprint(base):
        raise CheckpointError(
            f"{where} belongs to another base: it was made for {about['base'][:_NAME_WIDTH]}, this one is "
            f"{fingerprint(base)[:_NAME_WIDTH]}; load the base it was trained on."
        )
    return arrays


def _load(directory: epath.Path, step: int) -> tuple[dict[str, np.ndarray], dict]:
    """The arrays and what is said about them, verified against their digest."""
    try:
        with _manager(directory) as manager:
            about = manager.restore(step, args=ocp.args.Composite(about=ocp.args.JsonRestore()))["about"]
            arrays = ocp.StandardCheckpointer().restore(directory / str(step) / "arrays")
        arrays = {path: np.asarray(leaf) for path, leaf in arrays.items()}
        intact = about["content"] == fingerprint(arrays)
    except Exception as error:  # orbax and tensorstore raise many kinds; each means that this step cannot be read
        raise _damaged(directory, step, f"{type(error).__name__}") from error
    if not intact:
        raise _damaged(directory, step, "its arrays do not have the digest they were saved with")
    return arrays, about


def _damaged(directory: epath.Path, step: int, why: str) -> DamagedError:
    others = sorted(_steps(directory) - {step})
    advice = (
        f"step {others[-1]} is there too: pass step={others[-1]}" if others else "there is no other step; train again"
    )
    return DamagedError(f"the checkpoint {directory / str(step)} is damaged ({why}); {advice}.")


def _check_config(where: str, saved: dict | None, config: LoRAConfig | None) -> None:
    here = None if config is None else config.to_dict()
    saved = None if saved is None else LoRAConfig.from_dict(saved).to_dict()  # fields that are new have their defaults
    if saved == here:
        return
    if saved is None or here is None:
        raise CheckpointError(
            f"{where} was saved {'with' if saved else 'without'} a LoRA config; this call is the other way."
        )
    fields = [
        f"{name} is {saved.get(name)!r} there and {here.get(name)!r} here"
        for name in here
        if saved.get(name) != here[name]
    ]
    raise CheckpointError(f"{where} has another config: {'; '.join(fields)}.")


def _absolute(directory: str | epath.PathLike) -> epath.Path:
    """As orbax wants it; a bucket's path (gs://...) is so already."""
    directory = epath.Path(directory)
    return directory if is_remote(directory) else directory.absolute()


def _steps(directory: epath.Path) -> set[int]:
    """Complete checkpoints; one being written has a longer name, or in a bucket no `COMMITTED` yet."""
    if not directory.is_dir():
        return set()
    return {int(entry.name) for entry in directory.iterdir() if entry.name.isdigit() and _is_whole(entry)}


def _is_whole(step: epath.Path) -> bool:
    return (step / COMMITTED).exists() if is_remote(step) else step.is_dir()


def _manager(directory: epath.Path) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
    return ocp.CheckpointManager(directory, options=options)
