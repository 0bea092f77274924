"""Where the tensors of a PEFT folder that belong to no adapter (heads, biases) lie in the Flax tree."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from lora_jax.peft import names, tensors
from lora_jax.peft.names import Names
from lora_jax.products.site import Site
from lora_jax.tree import opened


class Place(NamedTuple):
    """Of one tensor."""

    path: str
    index: tuple[int, ...]  # of the layer within its stack
    module: str  # torch's path of the module
    shape: tuple[int, ...]  # that the tensor has


def places(leaves: Mapping[str, Any], layout: Mapping[str, Site], names_of: Names) -> dict[str, Place]:
    """torch key -> place, of every parameter of the base that torch has a name for; nothing is copied."""
    found = {}
    for path, value in leaves.items():
        module, _, leaf = path.rpartition("/")
        site, (torch_module, mark), shape = layout.get(module), names.split(names_of(module)), opened(value).shape
        name = tensors.parameter_name(site, leaf)
        if name is None or mark:
            continue
        for index, place in names.spelt(torch_module, shape):
            key = f"{place}.{name}" if place else name
            found[key] = Place(path, index, place, tensors.parameter_shape(site, leaf, shape[len(index) :]))
    return found
