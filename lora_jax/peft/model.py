"""A Flax model beside its torch twin: where each of torch's modules and parameters lies in the tree."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from lora_jax.peft import experts, names, tensors, ties
from lora_jax.peft.names import Names, Slot
from lora_jax.peft.places import Place, places
from lora_jax.products.site import Site


class Model(NamedTuple):
    """What a folder is read onto."""

    leaves: Mapping[str, Any]  # flat, of the base
    layout: Mapping[str, Site]
    slots: Mapping[str, Slot]
    places: Mapping[str, Place]
    inputs_first: bool | None

    @property
    def tied(self) -> list[str]:
        """The torch paths of tied tables."""
        return [path for path, slot in self.slots.items() if ties.is_tied_table(self.layout[slot.module])]

    def bias(self, slot: Slot) -> str | None:
        """The path of the bias of a layer, if it has one."""
        site = self.layout[slot.module]
        path = f"{slot.module}/bias".lstrip("/")
        return path if site.is_beside and path in self.leaves else None

    def rank(self, path: str, adapter: Mapping[str, np.ndarray]) -> int | None:
        """That of the adapter of a module or parameter, by the shape of its first factor."""
        slot, rank = self.slots[path], tensors.rank_of(adapter)
        if rank is None or not experts.are_experts(slot):
            return rank
        return rank // experts.sizes(self.layout[slot.module])[0]

    def is_swapped(self, path: str, adapter: Mapping[str, np.ndarray]) -> bool:
        """Whether PEFT took the inputs of experts for outputs."""
        return experts.is_swapped(path, self.layout[self.slots[path].module], adapter, self.inputs_first)


def model_of(
    leaves: Mapping[str, Any], layout: Mapping[str, Site], names_of: Names, inputs_first: bool | None = None
) -> Model:
    """The model of a flat base tree.

    Raises:
      PeftError: for a layout of another model, and for names that cannot be torch's.
    """
    slots = names.slots(names.stacks(layout, leaves), names_of)
    return Model(leaves, layout, slots, places(leaves, layout, names_of), inputs_first)
