"""What trains: masks, and the split of a parameter tree into frozen and trainable parts."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lora_jax import targets
from lora_jax.errors import ConfigError, TargetError, TreeError, closest
from lora_jax.intake import described, require_mapping, require_params, whole
from lora_jax.leaves import MAGNITUDE, TRAINABLE, is_adapter_leaf, kernel_paths, modules, name_of, owner, owners
from lora_jax.norms import require_norms
from lora_jax.patterns import all_normalised
from lora_jax.quantised import Quantised
from lora_jax.tree import Params, flat, nested

Mask = Params
BIASES = ("none", "lora_only", "all")


def trainable_mask(params: Params, train: Sequence[str] | str = (), *, bias: str = "none") -> Mask:
    """A tree like `params` of booleans, True = trains: every `lora_a`, `lora_b` and `lora_magnitude`, and whatever `train` names.

    Args:
      params: an adapted tree, or a plain one with `train` given.
      train: patterns (names, globs, regexes; see `LoRAConfig`) on paths of modules or leaves; a module stands for
        all its leaves. `"*"` trains everything (full fine-tuning).
      bias: "none", "lora_only" (the biases of adapted layers) or "all", as in PEFT.

    Raises:
      ConfigError: for another word for `bias`.
      TargetError: when a name matches nothing (with the closest paths), or when nothing trains.

    >>> params = {"head": {"kernel": np.ones((2, 2))}, "body": {"kernel": np.ones((2, 2))}}
    >>> trainable_mask(params, train="head")
    {'head': {'kernel': True}, 'body': {'kernel': False}}
    """
    patterns = all_normalised(train, "train")
    leaves = whole(params, "trainable_mask: params")
    chosen = {path: name_of(path) in TRAINABLE for path in leaves}
    for pattern in patterns:
        found = [path for path in leaves if _names(pattern, path)]
        if not found:
            raise TargetError(
                f"train={pattern!r} matches no parameter or module; closest: {_closest(pattern, leaves)}."
            )
        targets.require_one_reading("train", pattern, [name for path in found for name in _names_of(path)])
        chosen.update(dict.fromkeys(found, True))
    chosen.update(dict.fromkeys(_biases(bias, leaves), True))
    _require_trainable(chosen, leaves)
    if not any(chosen.values()):
        raise TargetError(
            "nothing would train: the tree holds no adapter and train=() names no head; "
            "make one with lora_jax.adapt, or name what trains, e.g. train=('classifier',)."
        )
    return nested(chosen)


def _biases(bias: str, leaves: Params) -> list[str]:
    if bias not in BIASES:
        raise ConfigError(f"bias is {bias!r}; it must be one of {', '.join(map(repr, BIASES))}.")
    every = [path for path in leaves if name_of(path) == "bias"]
    adapted = owners(leaves)
    chosen = {"none": [], "lora_only": [p for p in every if owner(p) in adapted], "all": every}[bias]
    if bias != "none" and not chosen:
        raise TargetError(
            f"bias={bias!r} selects nothing: {'no adapted layer has a' if every else 'the model has no'} bias."
        )
    return chosen


def _require_trainable(chosen: dict[str, bool], leaves: Params) -> None:
    """Raises TargetError for what cannot train as it is."""
    rescaled = {path for module in modules(leaves) if module + MAGNITUDE in leaves for path in kernel_paths(module)}
    for path in (path for path, trains in chosen.items() if trains):
        if isinstance(leaves[path], Quantised):
            raise TargetError(
                f"{path} is quantised, so it cannot train; leave it out of `train`, or exclude it from `quantise`."
            )
        if path in rescaled:
            raise TargetError(
                f"{path} has a magnitude (DoRA), whose cached norm would go stale if the kernel trained too; leave one out."
            )


def _names(pattern: str, path: str) -> bool:
    """Whether `pattern` selects the leaf or a module above it. Scales and adapters are never selected as heads are."""
    return not is_adapter_leaf(path) and targets.matches(pattern, *_names_of(path))


def _names_of(path: str) -> list[str]:
    """A leaf's path and those of the modules around it."""
    parts = path.split("/")
    return ["/".join(parts[: i + 1]) for i in range(len(parts))]


def _closest(pattern: str, leaves) -> str:
    modules = {path.rpartition("/")[0] for path in leaves} - {""}
    return closest(pattern, modules or leaves)


def partition(params: Params, mask: Mask) -> tuple[dict, dict]:
    """`(frozen, trainable)`: two trees that together hold every leaf once.

    Raises:
      TreeError: when `mask` is not a tree of booleans like `params`.

    >>> partition({"a": 1, "b": {"c": 2}}, {"a": True, "b": {"c": False}})
    ({'b': {'c': 2}}, {'a': 1})
    """
    _require_trees(partition=params)
    leaves, trains = flat(params), trainable_paths(mask, params)
    frozen = {path: leaf for path, leaf in leaves.items() if path not in trains}
    trainable = {path: leaf for path, leaf in leaves.items() if path in trains}
    return nested(frozen), nested(trainable)


def trainable_paths(mask: Mask, params: Params | None = None) -> set[str]:
    """The paths where the mask is True; of `params`, where they are given.

    >>> trainable_paths({"head": {"kernel": True}, "body": {"kernel": False}})
    {'head/kernel'}

    Raises:
      TreeError: when a leaf of the mask is not a boolean, or it is not a mask of `params`.
    """
    require_mapping(mask, "the mask")
    marks = flat(mask)
    odd = sorted(marks.keys() ^ flat(params).keys()) if params is not None else []
    if odd:
        raise TreeError(f"the mask is not of the tree it is used on; only one of them has {', '.join(odd[:3])}.")
    odd = next((path for path, mark in marks.items() if not isinstance(mark, (bool, np.bool_))), None)
    if odd is not None:
        raise TreeError(f"the mask has {described(marks[odd])} at {odd}; it must be a tree of booleans, True = trains.")
    return {path for path, mark in marks.items() if mark}


def combine(*parts: Params) -> dict:
    """One tree from disjoint ones, such as `partition` gives.

    Raises:
      TreeError: when two parts hold the same leaf, or an adapter has the norms (DoRA) of another base.

    >>> combine({"b": {"c": 2}}, {"a": 1})
    {'b': {'c': 2}, 'a': 1}
    """
    _require_trees(combine=parts)
    leaves: dict = {}
    for part in parts:
        new = flat(part)
        twice = sorted(leaves.keys() & new.keys())
        if twice:
            raise TreeError(f"combine: {twice[0]} is in two of the trees.")
        leaves.update(new)
    require_norms(leaves, "combine")
    return nested(leaves)


def _require_trees(**given: Any) -> None:
    for name, trees in given.items():
        for tree in trees if isinstance(trees, tuple) else (trees,):
            require_mapping(tree, f"{name}: params")
            require_params(tree, f"{name}: params")
