"""What `adapt` was given, as long as it lives: so that a save finds out what has changed since then.

Nothing is kept alive, and nothing is copied: the arrays are weakly referenced.
"""

import collections
import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from lora_jax.leaves import is_adapter_leaf

MOST = 32  # bases that are remembered
PASSING = (
    "params",
    "cache",
    "intermediates",
    "perturbations",
    "losses",
    "metrics",
)  # collections that no training leaves behind


class Base:
    """A base's leaves by path, weakly, and the model's other collections."""

    def __init__(self, leaves: Mapping[str, Any], others: Iterable[str]):
        self.others = tuple(sorted(set(others) - set(PASSING)))
        self.leaves: dict[str, weakref.ref] = {}
        self.kinds: dict[str, Any] = {}  # shape and dtype, which are known of an array that is gone, too
        for path, leaf in leaves.items():
            if isinstance(leaf, (jax.Array, np.ndarray)) and not isinstance(leaf, jax.core.Tracer):
                self.leaves[path], self.kinds[path] = weakref.ref(leaf), (leaf.shape, leaf.dtype)

    def shares(self, leaves: Mapping[str, Any]) -> bool:
        """Whether a tree has one of these very arrays, or an array of equal values that no other base would have."""
        alive = {path: ref() for path, ref in self.leaves.items() if path in leaves}
        if any(leaf is not None and leaf is leaves[path] for path, leaf in alive.items()):
            return True
        return any(
            leaf is not None and _is_telling(leaf) and _equal(leaf, leaves[path]) for path, leaf in alive.items()
        )

    def changed(self, leaves: Mapping[str, Any]) -> list[str]:
        """The paths at which a tree has other values than the base; of an array that is gone, that it was replaced by one like it."""
        return [
            path
            for path, ref in self.leaves.items()
            if path in leaves and _is_other(ref(), self.kinds[path], leaves[path])
        ]


_bases: collections.deque[Base] = collections.deque(maxlen=MOST)


def remember(leaves: Mapping[str, Any], others: Iterable[str] = ()) -> None:
    """Notes a base, flat, and the names of the model's other collections."""
    if (base := Base(leaves, others)).leaves:
        _bases.append(base)


def base_of(leaves: Mapping[str, Any], frozen: Mapping[str, Any]) -> Base | None:
    """The base that a flat tree was made from, if it is known.

    Of those that share an array with it (as a base and what a merge made of it do), the newest whose other arrays are those of `frozen`, too,
    the part of the tree that is said not to have trained; where there is none, the one from which fewest are other.
    """
    own = {path: leaf for path, leaf in leaves.items() if not is_adapter_leaf(path)}
    best, fewest = None, len(own) + 1
    for base in reversed(_bases):
        if base.leaves.keys() <= own.keys() and base.shares(own):
            changed = len(base.changed(frozen))
            best, fewest = (base, changed) if changed < fewest else (best, fewest)
        if not fewest:
            break
    return best


def _is_other(old: Any, kind: tuple, new: Any) -> bool:
    """Whether an array has other values than the one it was, which may be gone; one that was cast or quantised has not."""
    if old is new or not isinstance(new, (jax.Array, np.ndarray)) or (new.shape, new.dtype) != kind:
        return False
    return old is None or not _equal(old, new)


def _is_telling(leaf: Any) -> bool:
    """Whether its values are its own: fresh biases are zeros everywhere."""
    if leaf.size < 2 or _is_elsewhere(leaf) or jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return False
    values = np.asarray(leaf)
    return bool((values != values.reshape(-1)[0]).any())


def _equal(old: Any, new: Any) -> bool:
    if not isinstance(new, (jax.Array, np.ndarray)) or old.shape != new.shape or old.dtype != new.dtype:
        return False
    if _is_elsewhere(old) or _is_elsewhere(new):
        return True  # parts of it are other processes': not looked at
    return np.asarray(old).tobytes() == np.asarray(new).tobytes()


def _is_elsewhere(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and (leaf.is_deleted() or not leaf.is_fully_addressable)
