"""Parameter trees as flat dicts {"encoder/query/kernel": leaf}: the one place where trees are taken apart."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from lora_jax.errors import TreeError
from lora_jax.keys import escaped, plain

Params = Mapping[str, Any]


def flat(tree: Params) -> dict[str, Any]:
    """The leaves by path, a "/" inside a key escaped (`lora_jax.keys`); empty sub-trees are dropped.

    >>> flat({"head": {"kernel": 1, "bias": 2}, "norm": {"kernel/scale": 3}})
    {'head/kernel': 1, 'head/bias': 2, 'norm/kernel%2Fscale': 3}
    """
    if not isinstance(tree, Mapping):
        raise TreeError(f"expected a parameter tree (nested dicts of arrays), got {type(tree).__name__}.")
    return {_path(keys): leaf for keys, leaf in flatten_dict(tree).items()}


def _path(keys: tuple) -> str:
    odd = next((key for key in keys if not isinstance(key, str)), None)
    if odd is not None:
        raise TreeError(f"the parameter tree has the key {odd!r} among {keys}; keys are strings.")
    return "/".join(map(escaped, keys))


def nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flat`.

    >>> nested({"head/kernel": 1, "norm/kernel%2Fscale": 3})
    {'head': {'kernel': 1}, 'norm': {'kernel/scale': 3}}
    """
    return unflatten_dict({tuple(map(plain, path.split("/"))): leaf for path, leaf in leaves.items()})


def differences(expected: Mapping[str, Any], found: Mapping[str, Any], *, any_dtype: bool = False) -> list[str]:
    """One line per missing, unexpected or mis-shaped leaf; both are flat dicts of things with a shape and a dtype."""

    def differs(path: str) -> bool:
        if any_dtype:
            return np.shape(opened(expected[path])) != np.shape(opened(found[path]))
        return _spec(expected[path]) != _spec(found[path])

    lines = [f"missing {path} {_spec(leaf)}" for path, leaf in sorted(expected.items()) if path not in found]
    lines += [f"unexpected {path} {_spec(leaf)}" for path, leaf in sorted(found.items()) if path not in expected]
    lines += [
        f"mis-shaped {path}: expected {_spec(leaf)}, found {_spec(found[path])}"
        for path, leaf in sorted(expected.items())
        if path in found and differs(path)
    ]
    return lines


def require_base(model: str, expected: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Raises TreeError where a flat tree is not the base's of this model; a base cast to bfloat16 is still that base."""
    problems = differences(expected, found, any_dtype=True)
    if problems:
        raise TreeError(f"the base parameters do not fit {model}: {'; '.join(problems)}.")


def opened(leaf: Any) -> Any:
    """A leaf without the box that Flax may keep it in (nn.Partitioned say); a quantised kernel stays, for it has a shape itself."""
    return leaf if hasattr(leaf, "shape") else nn.meta.unbox(leaf)


def is_box(leaf: Any) -> bool:
    """Whether it is what Flax keeps an array in, or a quantised kernel."""
    return isinstance(leaf, nn.meta.AxisMetadata)


def unboxed(tree: Any) -> Any:
    """The tree with plain arrays: quantised kernels opened, boxes taken off."""
    return jax.tree.map(lambda leaf: nn.meta.unbox(leaf) if is_box(leaf) else leaf, tree, is_leaf=is_box)


def reboxed(box: Any, value: Any) -> Any:
    """A new value in the box of the old, if it had one that can hold it."""
    return box.replace_boxed(value) if isinstance(box, nn.meta.AxisMetadata) else value


def _spec(leaf: Any) -> str:
    leaf = opened(leaf)
    shape = ",".join(map(str, getattr(leaf, "shape", ())))
    return f"{getattr(leaf, 'dtype', type(leaf).__name__)}[{shape}]"
