"""A Flax model beside its torch twin: where each of torch's modules and parameters lies in the tree."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from lora_jax.peft import experts, names, targeting, tensors, ties
from lora_jax.peft.experts import Parameters
from lora_jax.peft.names import Names, Slot
from lora_jax.peft.places import Place, places
from lora_jax.products.site import Site


class Model(NamedTuple):
    """What a folder is read onto."""

    leaves: Mapping[str, Any]  # flat, of the base
    layout: Mapping[str, Site]
    slots: Mapping[str, Slot]
    places: Mapping[str, Place]
    weights: frozenset[str]  # layers whose weight target_parameters names
    parameters: Parameters

    @property
    def tied(self) -> list[str]:
        """The torch paths of tied tables."""
        return [path for path in self.slots if ties.is_tied_table(self.site(path))]

    def site(self, path: str) -> Site:
        """Of the layer or parameter at a torch path."""
        return self.layout[self.slots[path].module]

    def bias(self, slot: Slot) -> str | None:
        """The path of the bias of a layer, if it has one."""
        site = self.layout[slot.module]
        path = f"{slot.module}/bias".lstrip("/")
        return path if site.is_beside and path in self.leaves else None

    def is_parameter(self, path: str) -> bool:
        """Whether PEFT adapts it by target_parameters."""
        return bool(self.slots[path].mark) or path in self.weights

    def called(self, path: str) -> str:
        """What patterns call it: the path of a layer, or of a parameter."""
        return f"{path}.weight" if path in self.weights else path

    def rank(self, path: str, adapter: Mapping[str, np.ndarray]) -> int | None:
        """That of the adapter of a module or parameter, by the shape of its first factor."""
        rank = tensors.rank_of(adapter)
        return None if rank is None else rank // experts.sizes(self.slots[path], self.site(path))[0]

    def is_swapped(self, path: str, adapter: Mapping[str, np.ndarray]) -> bool:
        """Whether lora_A of a parameter is on the outputs' side."""
        told = self.parameters.told(path)
        return experts.is_swapped(path, self.slots[path], self.site(path), adapter, told)


def model_of(
    values, leaves: Mapping[str, Any], layout: Mapping[str, Site], names_of: Names, parameters: Parameters
) -> Model:
    """The model of a flat base tree, for a file whose config says `values`.

    Raises:
      PeftError: for a layout of another model, and for names that cannot be torch's.
    """
    slots = names.slots(names.stacks(layout, leaves), names_of)
    weights = {
        path for path, slot in slots.items() if not slot.mark and targeting.names_parameter(values, f"{path}.weight")
    }
    return Model(leaves, layout, slots, places(leaves, layout, names_of), frozenset(weights), parameters)
