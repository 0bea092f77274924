"""What the rank sweep learns: a base knows the old classes, and is adapted to all of them. MNIST's digits, or anybody's arrays."""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from experiments.common.errors import UserError
from experiments.data.mnist import Mnist, Split

NEW_DIGITS = ("8", "9")


@dataclasses.dataclass(frozen=True)
class Task:
    """`train` and `test` with labels that are places in `classes`; `old` and `new` are places too, and together all of them."""

    train: Split
    test: Split
    classes: tuple[str, ...]
    old: tuple[int, ...]
    new: tuple[int, ...]
    about: dict[str, Any]
    checksum: str

    def record(self) -> dict[str, Any]:
        """What a summary says about the data."""
        sizes = {"train": len(self.train.y), "test": len(self.test.y)}
        return {**self.about, "sha256": self.checksum, **sizes, "classes": list(self.classes)} | {
            "old": self._names(self.old),
            "new": self._names(self.new),
        }

    def _names(self, places: Sequence[int]) -> list[str]:
        return [self.classes[place] for place in places]


def of_mnist(data: Mnist, old: Sequence[str] | None = None, new: Sequence[str] | None = None) -> Task:
    """MNIST's digits, by default 0 to 7 and then 8 and 9; see `of_classes`."""
    new = NEW_DIGITS if old is None and new is None else new
    about = {"source": data.source, "is_full_mnist": data.is_full}
    return of_classes(data.train, data.test, [str(digit) for digit in range(10)], old, new, about, data.checksum)


def of_classes(
    train: Split,
    test: Split,
    classes: Sequence[str],
    old: Sequence[str] | None,
    new: Sequence[str] | None,
    about: dict[str, Any],
    checksum: str,
) -> Task:
    """The examples of the classes that are chosen: of old and new ones those that are not named are all the rest.

    Raises:
      UserError: for classes that are not there, that are named twice, or of which none are left.
    """
    old, new = _chosen(classes, old, new)
    kept = [name for name in classes if name in {*old, *new}]
    places = np.full(len(classes), -1, np.int32)
    places[[classes.index(name) for name in kept]] = np.arange(len(kept))
    of_kept = tuple(
        Split(part.x[keep], places[part.y[keep]]) for part in (train, test) for keep in [places[part.y] >= 0]
    )
    said = hashlib.sha256(repr((checksum, old, new)).encode()).hexdigest()
    return Task(*of_kept, tuple(kept), _places(kept, old), _places(kept, new), about, said)


def _places(kept: list[str], names: Sequence[str]) -> tuple[int, ...]:
    return tuple(place for place, name in enumerate(kept) if name in names)


def _chosen(classes, old, new) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(old, new) in the order of `classes`."""
    for flag, names in (("old_classes", old), ("new_classes", new)):
        for name in names or ():
            if name not in classes:
                raise UserError(f"--{flag}: there is no class {name!r}; there are {_shown(classes)}.")
            if names.count(name) > 1:
                raise UserError(f"--{flag}: {name!r} is named {names.count(name)} times; name each class once.")
    both = [name for name in old or () if name in (new or ())]
    if both:
        raise UserError(f"--old_classes and --new_classes both name {both[0]!r}; a class is old or new.")
    if old is None and new is None:
        raise UserError(f"--new_classes is missing: which of {_shown(classes)} shall the base not know?")
    old = [name for name in classes if name not in new] if old is None else old
    new = [name for name in classes if name not in old] if new is None else new
    for flag, names, other in (("new_classes", old, "old"), ("old_classes", new, "new")):
        if not names:
            raise UserError(f"--{flag} names every class there is, {_shown(classes)}; at least one must be {other}.")
    return tuple(name for name in classes if name in old), tuple(name for name in classes if name in new)


def _shown(classes: Sequence[str], most: int = 12) -> str:
    more = f" and {len(classes) - most:,} more" if len(classes) > most else ""
    return ", ".join(map(repr, classes[:most])) + more


@dataclasses.dataclass(frozen=True)
class Sets:
    """On the device: training, validation (a tenth of the training examples) and test sets, {"x", "y"} each; `old` is what bases learn from."""

    old: dict[str, jax.Array]
    train: dict[str, jax.Array]
    validation: dict[str, jax.Array]
    test: dict[str, jax.Array]


def sets(task: Task, batch_size: int) -> Sets:
    """The sets on the device; the validation examples are the same in every run, and the test set has old classes first.

    Raises:
      UserError: where the old classes do not fill a batch.
    """
    held_out = np.random.default_rng(0).permutation(len(task.train.y)) < len(task.train.y) // 10
    train, validation = (Split(task.train.x[keep], task.train.y[keep]) for keep in (~held_out, held_out))
    old = train.of(task.old)
    if len(old.y) < batch_size:
        raise UserError(f"the old classes have {len(old.y):,} training examples; a batch takes {batch_size}.")
    order = np.argsort(np.isin(task.test.y, task.new), kind="stable")
    test = Split(task.test.x[order], task.test.y[order])
    return Sets(*(split.on_device() for split in (old, train, validation, test)))
