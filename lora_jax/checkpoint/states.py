"""Whole training states: what a run goes on from."""

from typing import Any

import jax
import numpy as np
from etils import epath

from lora_jax.checkpoint import record, store
from lora_jax.checkpoint.fingerprints import fingerprint, keys_of, leaves_of, names_of, restored
from lora_jax.config import LoRAConfig, require_a_config
from lora_jax.errors import CheckpointError
from lora_jax.mesh import is_key


def save_state(
    directory: str | epath.PathLike,
    state: Any,
    frozen: Any,
    config: LoRAConfig | None,
    *,
    step: int,
    run: str | None = None,
    overwrite: bool = False,
) -> None:
    """Saves a whole training state (parameters, optimiser, PRNG keys, counters), bound to its frozen tree and config.

    Args:
      run: what else it is bound to, a digest of the run's settings say; `restore_state` must be told the same.
      overwrite: replaces the checkpoint of this very step, in one step on a disk.

    Raises:
      CheckpointError: as `save_adapter`.

    >>> import tempfile
    >>> from lora_jax import checkpoint
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_state(folder, {"lora_b": np.ones(2), "key": jax.random.key(3)}, {"kernel": np.ones(2)}, None, step=1)
    ...     checkpoint.latest_step(folder)
    1
    """
    if config is not None:
        require_a_config(config, "save_state")
    leaves = leaves_of(state)
    about = record.about(leaves, config, fingerprint(frozen), run, _keys(state))
    store.write(directory, step, leaves, about, overwrite=overwrite)


def restore_state(
    directory: str | epath.PathLike,
    like: Any,
    frozen: Any,
    config: LoRAConfig | None,
    *,
    step: int | None = None,
    run: str | None = None,
) -> Any:
    """The training state that `save_state` wrote, in the structure of `like` (a fresh state), each leaf laid out over devices as the fresh
    one is; training goes on bitwise.

    Raises:
      CheckpointError: as `restore_adapter`, and where it is another run's.

    >>> import tempfile
    >>> frozen = {"kernel": np.ones(2)}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_state(folder, {"lora_b": np.full(2, 5.0), "key": jax.random.key(3)}, frozen, None, step=1)
    ...     state = restore_state(folder, {"lora_b": np.zeros(2), "key": jax.random.key(0)}, frozen, None)
    >>> state["lora_b"].tolist(), bool(state["key"] == jax.random.key(3))
    ([5.0, 5.0], True)
    """
    saved = store.read(directory, step)
    record.require_config(saved, config)
    record.require_run(saved, run)
    leaves, structure = jax.tree_util.tree_flatten_with_path(like)
    named = {name: leaf for name, (_, leaf) in zip(names_of(leaves), leaves, strict=True)}
    record.require_leaves(saved, {**leaves_of(like), **_numbers(named, saved)})
    record.require_base(saved, fingerprint(frozen))
    _require_keys(saved, _keys(like))
    values = [_as_leaf(saved.arrays[name], leaf) for name, leaf in named.items()]
    return jax.tree_util.tree_unflatten(structure, values)


def _numbers(named: dict[str, Any], saved: record.Saved) -> dict[str, np.ndarray]:
    """Python's own numbers, in the width of the saved ones of their kind: the step of a `TrainState` begins as 0, and is an int32 later."""
    kinds = {
        name: np.asarray(leaf).dtype.kind for name, leaf in named.items() if type(leaf) in (bool, int, float, complex)
    }
    found = {name: saved.arrays[name] for name in kinds if name in saved.arrays}
    return {name: np.zeros((), array.dtype) for name, array in found.items() if array.dtype.kind == kinds[name]}


def _as_leaf(value: np.ndarray, like: Any) -> Any:
    """Laid out over devices as the fresh one is; one that several processes share stays where it is read."""
    found = restored(value, str(jax.random.key_impl(like)) if is_key(like) else None)
    is_laid_out = isinstance(like, jax.Array) and isinstance(like.sharding, jax.sharding.NamedSharding)
    return jax.device_put(found, like.sharding) if is_laid_out and like.is_fully_addressable else found


def _keys(state: Any) -> dict[str, str]:
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    return keys_of({name: leaf for name, (_, leaf) in zip(names_of(leaves), leaves, strict=True)})


def _require_keys(saved: record.Saved, own: dict[str, str]) -> None:
    """Raises CheckpointError for a PRNG key of another algorithm than the saved one's; what was saved before they were noted says none."""
    there = saved.about.get("keys", own)
    for path in sorted(there.keys() | own.keys()):
        if there.get(path) != own.get(path):
            raise CheckpointError(
                f"{saved.where} has {_said(there, path)} at {path}, and this state has {_said(own, path)}; make the state as the saved one was made."
            )


def _said(keys: dict[str, str], path: str) -> str:
    return f"a PRNG key of {keys[path]}" if path in keys else "a plain array"
