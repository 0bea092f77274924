"""Rows of a table that train alone: PEFT's `trainable_token_indices`, a list for the input embedding or one for each of some modules.

The file has those rows, and they replace the base's. Here they are written into the table, whose other rows are the base's; nothing trains
a part of a leaf, so that a mask trains the whole table, and what is written again are the rows that differ from the base's. Of a tied table
PEFT gives them to both of its uses, where torch's config says that it is tied.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import numpy as np

from lora_jax import targets
from lora_jax.errors import PeftError, closest
from lora_jax.leaves import is_adapter_leaf
from lora_jax.peft import names, tensors
from lora_jax.peft.places import Place
from lora_jax.products.site import Site
from lora_jax.tree import opened


def indices(values, modules: Mapping[str, Any]) -> dict[str, list[int]]:
    """torch path of a module that has rows in the file -> which they are; without those that nothing is said of.

    >>> indices({"trainable_token_indices": {"wte": [2, 5]}}, {"transformer.wte": None})
    {'transformer.wte': [2, 5]}
    """
    told = values.get("trainable_token_indices") or []
    if not isinstance(told, dict):
        return {module: told for module in modules if told and len(modules) == 1}
    return {module: rows for module in modules for name, rows in told.items() if module.endswith(name)}


def misfits(values, rows: Mapping[str, np.ndarray], known: Mapping[str, Place], layout, tied: bool) -> list[str]:
    """One phrase for each table whose rows are missing, unexpected, or do not fit.

    Args:
      tied: whether this model has a tied table, whose output layer needs no rows of its own.
    """
    told = values.get("trainable_token_indices") or []
    of = indices(values, rows)
    lines = [
        f"{path} has rows of its own, which trainable_token_indices does not name"
        for path in sorted(rows.keys() - of.keys())
    ]
    if told and not rows:
        lines.append(f"missing the rows that trainable_token_indices={told!r} names")
    for name, which in told.items() if isinstance(told, dict) and rows else ():
        covered = tied and which in of.values()
        if not covered and not any(path.endswith(name) for path in rows):
            lines.append(f"missing the rows of {name}, which trainable_token_indices names")
    for path, which in sorted(of.items()):
        lines += _misfit(path, which, rows[path], known, layout)
    return lines


def _misfit(path: str, which: Sequence[int], rows: np.ndarray, known: Mapping[str, Place], layout) -> list[str]:
    place = known.get(f"{path}.weight")
    if place is None:
        return [f"unexpected rows of {path}, which is no layer of this model"]
    site = layout.get(place.path.rpartition("/")[0])
    if f"{path}.bias" in known and not (site is not None and site.is_lookup):
        return [f"{path} has rows of its own and a bias, which PEFT leaves out where a layer has such rows"]
    if len(place.shape) != 2 or rows.shape != (len(which), place.shape[-1]):
        return [f"the rows of {path} are {list(rows.shape)}, expected {[len(which), place.shape[-1]]}"]
    if max(which, default=0) >= place.shape[0]:
        return [f"trainable_token_indices names row {max(which)} of {path}, which has {place.shape[0]}"]
    return []


def warn_of_ties(rows: Mapping[str, np.ndarray], known: Mapping[str, Place], leaves, layout) -> None:
    """Warns where a table with rows of its own is equal to an output layer that has none: torch's may be tied, and the rows meant for both."""
    weights = {
        key: place
        for key, place in known.items()
        if key.endswith(".weight") and len(place.shape) == 2 and not place.index
    }
    for path in rows.keys() & {key.removesuffix(".weight") for key in weights}:
        own = weights[f"{path}.weight"]
        for key, place in weights.items():
            if place.path == own.path or place.shape != own.shape or key.removesuffix(".weight") in rows:
                continue
            if np.array_equal(*(_weight(each.path, leaves, layout) for each in (own, place))):
                warnings.warn(
                    f"the rows go into {path} alone, though {key} equals {path}.weight; if torch ties the two, PEFT means the rows of both.",
                    stacklevel=3,
                )


def _weight(path: str, leaves, layout) -> np.ndarray:
    module, _, leaf = path.rpartition("/")
    return tensors.parameter_to_torch(layout.get(module), leaf, leaves[path])


def filled(
    values, rows: Mapping[str, np.ndarray], known: Mapping[str, Place], leaves, kept, layout
) -> dict[str, np.ndarray]:
    """Leaf path -> table with those rows, of the file's own table (in `kept`) or of the base's."""
    found: dict[str, np.ndarray] = {}
    for module, which in indices(values, rows).items():
        path, index, _, _ = known[f"{module}.weight"]
        site, leaf = layout.get(path.rpartition("/")[0]), path.rpartition("/")[2]
        value = found.get(path, np.array(nn.meta.unbox(kept.get(path, leaves[path])), np.float32))
        weight = tensors.parameter_to_torch(site, leaf, value[index])
        weight = np.array(weight)
        weight[which] = np.asarray(rows[module], np.float32)
        value[index] = tensors.parameter_from_torch(site, leaf, value[index].shape, weight)
        found[path] = value
    return found


def selected(patterns: Sequence[str] | str, leaves: Mapping[str, Any]) -> list[str]:
    """The leaves that `token_rows` selects: tables, and kernels of layers.

    Raises:
      PeftError: for a pattern that selects none.
    """
    patterns = (patterns,) if isinstance(patterns, str) else tuple(patterns)
    found = []
    for pattern in patterns:
        own = [
            path
            for path in leaves
            if not is_adapter_leaf(path)
            and path.rpartition("/")[2] in ("embedding", "kernel")
            and targets.matches(pattern, path, path.rpartition("/")[0])
        ]
        if not own:
            modules = {path.rpartition("/")[0] for path in leaves if not is_adapter_leaf(path)}
            raise PeftError(f"token_rows: {pattern!r} selects no table; closest: {closest(pattern, modules)}.")
        found += own
    return found


def changed(
    path: str, leaves, base: Mapping[str, Any] | None, layout: Mapping[str, Site], names_of
) -> tuple[str, list[int], np.ndarray]:
    """(torch module, which rows of a table differ from the base's, these rows).

    Raises:
      PeftError: without a base to compare with, and for a table that has no rows or of which none differs.
    """
    module, _, leaf = path.rpartition("/")
    site, (torch_path, mark) = layout.get(module), names.split(names_of(module))
    if base is None or path not in base:
        raise PeftError(
            f"token_rows asks for the rows of {path} that differ from the base's: pass base_params= with that leaf."
        )
    name = tensors.parameter_name(site, leaf)
    if "{}" in torch_path or mark or name is None or len(opened(leaves[path]).shape) != 2:
        raise PeftError(
            f"token_rows: {path} {tuple(opened(leaves[path]).shape)} is not one table of torch; name an embedding or an output layer."
        )
    now, before = (tensors.parameter_to_torch(site, leaf, tree[path]) for tree in (leaves, base))
    if now.shape != before.shape:
        raise PeftError(
            f"token_rows: {path} is {list(now.shape)} and the base's {list(before.shape)}; let the base have its size."
        )
    if f"{module}/bias".lstrip("/") in leaves and not (site is not None and site.is_lookup):
        raise PeftError(
            f"token_rows: {module} has a bias, which PEFT leaves out where a layer has rows of its own; let it train whole."
        )
    which = np.flatnonzero((now != before).any(axis=1))
    if not len(which):
        raise PeftError(f"token_rows: no row of {path} differs from the base's; leave it out.")
    return torch_path, which.tolist(), now[which]
