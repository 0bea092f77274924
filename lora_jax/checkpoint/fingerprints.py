"""The leaves of any tree by name, as numpy arrays, and what identifies them."""

import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from lora_jax.errors import TreeError
from lora_jax.keys import escaped
from lora_jax.mesh import fetch, is_key
from lora_jax.tree import opened

SHOWN = 12  # characters of a fingerprint in a message


def fingerprint(tree: Any) -> str:
    """SHA-256 over the paths, shapes, dtypes and bytes of a tree's leaves, whatever their order.

    >>> fingerprint({"a": np.zeros(2), "b": np.ones(1)}) == fingerprint({"b": np.ones(1), "a": np.zeros(2)})
    True
    """
    digest = hashlib.sha256()
    for path, array in sorted(leaves_of(tree).items()):
        digest.update(f"{path} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def leaves_of(tree: Any) -> dict[str, np.ndarray]:
    """Flat numpy arrays; typed PRNG keys as their words.

    Raises:
      TreeError: for a leaf that is no array of numbers.
    """
    found = jax.tree_util.tree_flatten_with_path(tree)[0]
    return arrays_of({name: leaf for name, (_, leaf) in zip(names_of(found), found, strict=True)})


def arrays_of(leaves: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """`leaves_of` a flat tree."""
    found = {}
    for path, leaf in leaves.items():
        found[path] = fetch(opened(leaf))
        if found[path].dtype.kind in "OUSMm":
            raise TreeError(f"{path} is {type(leaf).__name__} and no array of numbers; it cannot be saved.")
    return found


def keys_of(leaves: Mapping[str, Any]) -> dict[str, str]:
    """The algorithm of each leaf that is of typed PRNG keys, by path.

    >>> keys_of({"rng": jax.random.key(0), "count": np.ones(2)})
    {'rng': 'threefry2x32'}
    """
    return {path: str(jax.random.key_impl(leaf)) for path, leaf in leaves.items() if is_key(leaf)}


def restored(array: np.ndarray, impl: str | None = None) -> Any:
    """An array of a checkpoint in JAX, PRNG keys again of their algorithm; in numpy where JAX would round it (int64, float64).

    >>> restored(np.asarray(2**40)).item() == 2**40
    True
    """
    if impl is not None:
        return jax.random.wrap_key_data(jax.numpy.asarray(array), impl=impl)
    return jax.numpy.asarray(array) if jax.dtypes.canonicalize_dtype(array.dtype) == array.dtype else array


def names_of(leaves: list[tuple[tuple, Any]]) -> list[str]:
    """Of each leaf its own; of two whose keys with "/" between them read the same, as a "/" inside a key can have it, the second is told apart."""
    names: dict[str, None] = {}
    for path, _ in leaves:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        parts = (escaped(jax.tree_util.keystr((key,), simple=True)) for key in path)
        names["/".join(parts) if name in names else name] = None
    return list(names)
