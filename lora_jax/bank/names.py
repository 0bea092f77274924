"""Which adapter lies in which slot of a bank."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from lora_jax.errors import TreeError, closest
from lora_jax.scalars import integer

BASE = -1  # the id of the base


class Slots:
    """Names -> slots of a bank, for servers: which slot an adapter lies in, which is free, and the ids of a batch.

    Args:
      names: those of the adapters in the order in which they were stacked; the dict that `bank.stack` was given will do.
      capacity: of the bank; as many as there are names by default.

    >>> slots = Slots(["french", "german"], capacity=3)
    >>> slots["german"], slots.add("latin"), slots.remove("french"), slots.add("greek")
    (1, 2, 0, 0)
    >>> slots.ids(["latin", None, "greek"]).tolist(), "french" in slots, list(slots)
    ([2, -1, 0], False, ['german', 'latin', 'greek'])
    """

    def __init__(self, names: Any = (), *, capacity: int | None = None):
        names = [_name(name) for name in _listed("names", names)]
        self._slots = {name: slot for slot, name in enumerate(names)}
        self.capacity = len(names) if capacity is None else integer(capacity)
        if len(self._slots) < len(names):
            raise TreeError(
                f"the names {', '.join(map(repr, names))} are not all different; a slot has a name of its own."
            )
        if self.capacity is None or self.capacity < len(names):
            raise TreeError(f"capacity is {capacity!r}; it must be an integer of at least {len(names)}.")

    def __getitem__(self, name: Any) -> int:
        if _name(name) not in self._slots:
            raise TreeError(f"there is no adapter {name!r} in the bank; closest: {closest(str(name), self._slots)}.")
        return self._slots[name]

    def __contains__(self, name: object) -> bool:
        return name in self._slots

    def __iter__(self) -> Iterator[str]:
        return iter(self._slots)

    def __len__(self) -> int:
        return len(self._slots)

    def __repr__(self) -> str:
        return f"Slots({', '.join(f'{name}: {slot}' for name, slot in self._slots.items())}; {self.capacity - len(self)} free)"

    def add(self, name: Any) -> int:
        """A free slot, from now on this name's. Raises TreeError where the name is taken, or no slot is free.

        >>> Slots(capacity=2).add("french")
        0
        """
        if _name(name) in self._slots:
            raise TreeError(
                f"{name!r} lies in slot {self._slots[name]} already; put another adapter there, or remove it first."
            )
        free = sorted(set(range(self.capacity)) - set(self._slots.values()))
        if not free:
            raise TreeError(f"the bank is full ({self.capacity} slots): {', '.join(self._slots)}; remove one first.")
        self._slots[name] = free[0]
        return free[0]

    def remove(self, name: Any) -> int:
        """The slot of this name, free from now on. Raises TreeError for a name that is not there.

        >>> Slots(["french"]).remove("french")
        0
        """
        slot = self[name]
        del self._slots[name]
        return slot

    def ids(self, names: Any) -> np.ndarray:
        """int32 [B] for `bank.apply`, None being the base. Raises TreeError for a name that is not there.

        >>> Slots(["french"]).ids([None, "french"]).tolist()
        [-1, 0]
        """
        return np.asarray([BASE if name is None else self[name] for name in _listed("ids", names)], np.int32)


def _name(name: Any) -> str:
    """A name. Raises TreeError for what is none: None is the base's, and a number is a slot's."""
    if not isinstance(name, str):
        raise TreeError(f"{name!r} is no name of an adapter; a name is a string, and None in `ids` is the base.")
    return name


def _listed(what: str, names: Any) -> list[Any]:
    """Names in a list. Raises TreeError for one name alone, and for what is no list."""
    if isinstance(names, (str, bytes)) or not isinstance(names, Iterable):
        raise TreeError(f"Slots: {what} is {names!r}; give a list of names, one for each.")
    return list(names)
