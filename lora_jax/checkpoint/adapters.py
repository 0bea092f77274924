"""Adapters in checkpoints: saved with the heads and collections that training changed, restored onto their base."""

import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from flax import nnx

from lora_jax import known, targets
from lora_jax.checkpoint import record, store
from lora_jax.checkpoint.fingerprints import arrays_of, fingerprint, keys_of, restored
from lora_jax.config import LoRAConfig, require_a_config
from lora_jax.errors import CheckpointError, TreeError, UnsavedStateWarning
from lora_jax.intake import adapted, require_values, tree_of
from lora_jax.keys import escaped
from lora_jax.leaves import adapter_at, is_adapter_leaf, kernel_path, modules, require_fit, require_whole
from lora_jax.module import LoRA
from lora_jax.nnx import LoRA as of_nnx
from lora_jax.nnx.trees import as_tree
from lora_jax.partition import Mask, trainable_paths
from lora_jax.tree import Params, nested, opened, reboxed
from lora_jax.tree_config import require_config

BESIDE = "//"  # begins the names of arrays of other collections; no path of a parameter does


class Loaded(NamedTuple):
    """What a checkpoint holds, on its base.

    >>> Loaded(LoRAConfig(rank=1), {}, (), {}, None, 7).step
    7
    """

    config: LoRAConfig
    params: dict[str, Any]  # the base with its adapter and heads
    train: tuple[str, ...]  # what was saved beside the adapters, for `trainable_mask(params, train=...)`
    collections: dict[str, Any]  # other collections, {"batch_stats": ...} say
    model: Any  # the LoRA wrapper
    step: int


def save_adapter(
    directory: str | epath.PathLike,
    params: Params,
    config: LoRAConfig,
    *,
    mask: Mask | None,
    step: int = 0,
    collections: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    run: str | None = None,
) -> None:
    """Saves the adapters, and the heads that `mask` trains, with the config and a fingerprint of the rest of the base.

    `mask` must be given, so that a head is never forgotten: the mask that trained, or None for the adapters alone. The two newest
    checkpoints are kept.

    Args:
      directory: made where there is none.
      params: an adapted tree.
      config: the one it was made with.
      mask: from `trainable_mask`; with None, a head or bias that has changed since `adapt` is an error, where that can be known.
      step: the checkpoint's number; later than those in the folder.
      collections: what else training changed, {"batch_stats": ...}; {} for a model that has some and changed none of them.
      overwrite: replaces the checkpoint of this very step, in one step on a disk: a kill leaves the old one or the new one.
      run: what else it is bound to, a digest of the run's settings say.

    Raises:
      CheckpointError: when the folder cannot be written, or holds this step or a later one already; when a leaf of the base has trained and
        `mask` leaves it out.
      UnsavedStateWarning: when the model has other collections and `collections` does not say what becomes of them; the adapter is saved.
      TreeError: for a tree without an adapter, one that is not whole, or one that another config made (another rank say).

    >>> import tempfile
    >>> from lora_jax import checkpoint
    >>> adapter = {"lora_a": np.ones((3, 1), np.float32), "lora_b": np.ones((1, 2), np.float32), "lora_scale": np.ones(())}
    >>> params, config = {"kernel": np.ones((3, 2)), **adapter}, LoRAConfig(rank=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_adapter(folder, params, config, mask=None, step=7)
    ...     checkpoint.latest_step(folder)
    7
    """
    leaves = adapted(params, "save_adapter: params")
    require_values(leaves, "save_adapter: params")
    require_a_config(config, "save_adapter")
    saved, base = _split(leaves, mask)
    _require_adapter(leaves)
    require_config(params, config)
    _require_nothing_lost(leaves, base, collections)
    beside = _named(collections or {})
    arrays = arrays_of({**saved, **beside})
    about = record.about(arrays, config, fingerprint(base), run, keys_of(beside))
    store.write(directory, step, arrays, about, overwrite=overwrite)


def restore_adapter(
    directory: str | epath.PathLike,
    params: Params,
    config: LoRAConfig | None = None,
    *,
    mask: Mask | None = None,
    step: int | None = None,
    run: str | None = None,
) -> dict:
    """`params` with its adapters and heads replaced by the saved ones; all or nothing.

    Args:
      directory: where `save_adapter` wrote.
      params: an adapted tree of the same base, e.g. fresh from `lora_jax.adapt`; not changed.
      config: the config it was made with; where it is given, it must equal the saved one.
      mask: where it is given, it must train the same heads as the saved one did.
      step: the newest by default.
      run: as for `save_adapter`.

    Raises:
      CheckpointError: when there is none, it is damaged, it belongs to another base, config or run, it holds other collections
        (`load` returns them), or any leaf is missing, unexpected or mis-shaped (all of them are listed).

    >>> import tempfile
    >>> adapter = {"lora_a": np.ones((3, 1), np.float32), "lora_b": np.ones((1, 2), np.float32), "lora_scale": np.ones(())}
    >>> params, config = {"kernel": np.ones((3, 2)), **adapter}, LoRAConfig(rank=1)
    >>> fresh = {**params, "lora_b": np.zeros((1, 2), np.float32)}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_adapter(folder, params, config, mask=None)
    ...     restore_adapter(folder, fresh, config)["lora_b"].tolist()
    [[1.0, 1.0]]
    """
    leaves = tree_of(params, "restore_adapter: params")
    saved = store.read(directory, step)
    if not any(map(is_adapter_leaf, leaves)):
        raise CheckpointError(
            "these parameters hold no adapter to replace; pass the tree that lora_jax.adapt made, or read onto the bare base by "
            "checkpoint.load(folder, base_params, model)."
        )
    if config is None:
        _config(saved)
    else:
        require_a_config(config, "restore_adapter")
        record.require_config(saved, config)
    _require_an_adapter(saved)
    record.require_run(saved, run)
    if any(name.startswith(BESIDE) for name in saved.arrays):
        raise CheckpointError(
            f"{saved.where} holds {', '.join(_collections(saved))} beside the adapter; read it by checkpoint.load(folder, base_params, model), "
            "which returns them, too."
        )
    heads = (
        {path for path in saved.arrays if not is_adapter_leaf(path)} if mask is None else trainable_paths(mask, params)
    )
    expected = {path: leaf for path, leaf in leaves.items() if is_adapter_leaf(path) or path in heads}
    record.require_leaves(saved, expected)
    record.require_base(saved, fingerprint({path: leaf for path, leaf in leaves.items() if path not in expected}))
    return nested({**leaves, **{path: reboxed(leaves[path], restored(leaf)) for path, leaf in saved.arrays.items()}})


def load(
    directory: str | epath.PathLike,
    base_params: Params,
    model: Any,
    *,
    step: int | None = None,
    run: str | None = None,
) -> Loaded:
    """What `save_adapter` wrote, onto the bare base: config, heads and collections are those of the checkpoint.

    Args:
      directory: where `save_adapter` wrote.
      base_params: the parameters of the base module; an adapter in them is dropped, and heads are replaced.
      model: the base module, or a LoRA wrapper of it, of linen or NNX.
      step: the newest by default.
      run: as for `save_adapter`.

    Raises:
      CheckpointError: as `restore_adapter`.

    >>> import tempfile, flax.linen as nn, jax, lora_jax
    >>> base, x = nn.Dense(4), np.ones((1, 3), np.float32)
    >>> base_params = base.init(jax.random.key(0), x)["params"]
    >>> config = LoRAConfig(rank=2, targets="*")
    >>> params = lora_jax.adapt(jax.random.key(1), base_params, lora_jax.LoRA(base, config), x)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_adapter(folder, params, config, mask=None)
    ...     found = load(folder, base_params, base)
    >>> found.config.rank, sorted(found.params), found.model.apply({"params": found.params}, x).shape
    (2, ['bias', 'kernel', 'lora_a', 'lora_b', 'lora_scale'], (1, 4))
    """
    saved = store.read(directory, step)
    config = _config(saved)
    _require_an_adapter(saved)
    record.require_run(saved, run)
    base = {path: leaf for path, leaf in _tree(base_params).items() if not is_adapter_leaf(path)}
    own = {name: leaf for name, leaf in saved.arrays.items() if not name.startswith(BESIDE)}
    heads = {path: leaf for path, leaf in own.items() if not is_adapter_leaf(path)}
    problems = [
        f"it has {path} {leaf.shape}, which this base has not"
        for path, leaf in heads.items()
        if not _has(base, path, leaf)
    ]
    if problems:
        raise CheckpointError(f"{saved.where} does not fit: {'; '.join(problems[:3])}.")
    params = {**base, **{path: reboxed(base.get(path), restored(leaf)) for path, leaf in own.items()}}
    _require_places(saved, params)
    record.require_base(saved, fingerprint({path: leaf for path, leaf in base.items() if path not in heads}))
    train = tuple(targets.exactly(path, base) for path in sorted(heads))
    return Loaded(config, nested(params), train, _collections(saved), _wrapped(model, config), saved.step)


def read_config(directory: str | epath.PathLike, *, step: int | None = None) -> LoRAConfig:
    """The config of a saved adapter, of the newest step by default.

    Raises:
      CheckpointError: when there is none, it is damaged, or it is a training state without a config.

    >>> import tempfile
    >>> adapter = {"lora_a": np.ones((3, 1), np.float32), "lora_b": np.ones((1, 2), np.float32), "lora_scale": np.ones(())}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_adapter(folder, {"kernel": np.ones((3, 2)), **adapter}, LoRAConfig(rank=1), mask=None)
    ...     read_config(folder).rank
    1
    """
    return _config(store.read(directory, step))


def _config(saved: record.Saved) -> LoRAConfig:
    config = record.config_of(saved)
    if config is None:
        raise CheckpointError(f"{saved.where} was saved without a LoRA config; it is a training state of save_state.")
    return config


def _require_an_adapter(saved: record.Saved) -> None:
    """Raises CheckpointError for a training state, which has a config too."""
    if {"key", "step"} <= saved.arrays.keys() and any(name.startswith("trainable/") for name in saved.arrays):
        raise CheckpointError(
            f"{saved.where} is a training state of save_state; read it by checkpoint.restore_state(folder, fresh_state, frozen, config)."
        )


def _split(leaves: Mapping[str, Any], mask: Mask | None) -> tuple[dict, dict]:
    """(what is saved, the base it belongs to), flat: adapters and trained heads, and everything else."""
    heads = set() if mask is None else trainable_paths(mask, nested(leaves))
    saved = {p: leaf for p, leaf in leaves.items() if is_adapter_leaf(p) or p in heads}
    return saved, {p: leaf for p, leaf in leaves.items() if p not in saved}


def _require_adapter(leaves: Mapping[str, Any]) -> None:
    if not any(map(is_adapter_leaf, leaves)):
        raise TreeError("these parameters hold no adapter; lora_jax.adapt makes one, and save_state saves any tree.")


def _require_nothing_lost(leaves: Mapping[str, Any], base: Mapping[str, Any], collections: Any) -> None:
    """Raises CheckpointError for a leaf that training changed and this save would leave out, as far as it is known what `adapt` was given.

    Of other collections nobody knows whether they changed, and a script that ends without a save has lost more: they are a warning.
    """
    origin = known.base_of(leaves, base)
    if origin is None:
        return
    changed = origin.changed(base)
    if changed:
        more = f" and {len(changed) - 1} more leaves of the base have" if len(changed) > 1 else " has"
        raise CheckpointError(
            f"{changed[0]}{more} changed since lora_jax.adapt, and mask leaves it out, so it would be lost; pass the mask that trained, as "
            f"trainable_mask(params, train=({targets.exactly(changed[0], leaves)!r},)) makes it."
        )
    if origin.others and collections is None:
        first = origin.others[0]
        warnings.warn(
            UnsavedStateWarning(
                f"the model has {', '.join(origin.others)} beside its parameters, and they are not saved: if training changed them, save again "
                f"with collections={{{first!r}: ...}}; if they are the base's own, collections={{}} says so."
            ),
            stacklevel=3,
        )


def _named(collections: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(collections, Mapping) or "params" in collections:
        raise TreeError(
            f"collections has {sorted(collections)}; pass a dict of what the model has beside its parameters, {{'batch_stats': ...}}."
        )
    odd = next((name for name in collections if not isinstance(name, str)), None)
    if odd is not None:
        raise TreeError(f"collections has the name {odd!r}; names of collections are strings.")
    trees = {name: tree_of(tree, f"collections: {name}") for name, tree in collections.items()}
    return {f"{BESIDE}{escaped(name)}/{path}": leaf for name, tree in trees.items() for path, leaf in tree.items()}


def _collections(saved: record.Saved) -> dict[str, Any]:
    found = {
        name.removeprefix(BESIDE): restored(leaf, saved.about.get("keys", {}).get(name))
        for name, leaf in saved.arrays.items()
        if name.startswith(BESIDE)
    }
    return nested(found)


def _tree(base_params: Any) -> dict[str, Any]:
    return tree_of(as_tree(base_params) if isinstance(base_params, nnx.State) else base_params, "load: base_params")


def _has(base: Mapping[str, Any], path: str, leaf: np.ndarray) -> bool:
    return path in base and np.shape(opened(base[path])) == leaf.shape


def _require_places(saved: record.Saved, leaves: Mapping[str, Any]) -> None:
    """Raises CheckpointError where an adapter has no kernel in this base, or one of another shape."""
    try:
        require_whole(leaves)
        for module in modules(leaves):
            path = kernel_path(leaves, module)
            require_fit(path, opened(leaves[path]).shape, adapter_at(leaves, module), module)
    except TreeError as error:
        raise CheckpointError(f"{saved.where} does not fit this base: {error}") from error


def _wrapped(model: Any, config: LoRAConfig) -> Any:
    if hasattr(model, "with_config"):
        return model.with_config(config)
    if isinstance(model, nnx.Module):
        return of_nnx(model, config)
    return LoRA(model, config)
