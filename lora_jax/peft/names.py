"""Which torch module a Flax module is: the hook for names, and a table of both sides with stacked layers spelled out."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from lora_jax.errors import PeftError, closest
from lora_jax.layout import Site

Names = Callable[[str], str]  # a Flax module's path -> the torch module's, with "{}" for the index of a stacked layer
PREFIX = "base_model.model."


def dotted(path: str) -> str:
    """The names of a model whose modules are called alike on both sides; the default.

    >>> dotted("bert/encoder/layer/0/attention/self/query")
    'bert.encoder.layer.0.attention.self.query'
    """
    return path.replace("/", ".")


class Slot(NamedTuple):
    """Where a torch module's parameters lie in the Flax tree."""

    module: str  # the Flax module's path
    index: tuple[int, ...]  # of the layer within its stack; () where there is none


def slots(modules: Mapping[str, tuple[int, ...]], names: Names) -> dict[str, Slot]:
    """torch path -> slot.

    Args:
      modules: Flax path -> the sizes of its stack, () for a single layer.
      names: the hook.

    Raises:
      PeftError: when a stacked layer's name has no place for its index, or two modules get one name.

    >>> slots({"layers/mlp": (2,)}, lambda path: "model.layers.{}.mlp")
    {'model.layers.0.mlp': Slot(module='layers/mlp', index=(0,)), 'model.layers.1.mlp': Slot(module='layers/mlp', index=(1,))}
    """
    found: dict[str, Slot] = {}
    for module, stack in modules.items():
        name = names(module)
        if name.count("{}") != len(stack):
            raise PeftError(
                f"{module} holds {stack or 'no'} stacked layers, and its torch name is {name!r}: it must have {len(stack)} {{}} for "
                "their index; pass names=, a function from Flax paths to such names."
            )
        for index in itertools.product(*map(range, stack)):
            torch_path = name.format(*index)
            if torch_path in found:
                raise PeftError(f"names= calls both {found[torch_path].module} and {module} {torch_path!r}.")
            found[torch_path] = Slot(module, index)
    return found


def stacks(layout: Mapping[str, Site], leaves: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Flax path -> sizes of its stack, for every layer that LoRA could adapt.

    Raises:
      PeftError: for a layout of another model than the flat tree `leaves`.
    """
    found = {}
    for path, site in layout.items():
        kernel = f"{path}/{site.leaf}".lstrip("/")
        if kernel not in leaves:
            raise PeftError(
                f"the layout has {path!r} and the parameters have no {kernel}; closest: {closest(kernel, leaves)}."
            )
        shape = leaves[kernel].shape
        found[path] = tuple(shape[: len(shape) - len(site.kernel)])
    return found


def selection(chosen: set[str], every: set[str]) -> list[str]:
    """The shortest endings of torch paths that select `chosen` among `every`, as PEFT's target_modules does; sorted.

    >>> selection({"a.0.query", "a.1.query"}, {"a.0.query", "a.1.query", "a.0.key"})
    ['query']
    """
    found = {}
    for path in sorted(chosen):
        parts = path.split(".")
        endings = (".".join(parts[-n:]) for n in range(1, len(parts) + 1))
        found[path] = next(ending for ending in endings if _selected(ending, every) <= chosen)
    return sorted(set(found.values()))


def _selected(ending: str, paths: set[str]) -> set[str]:
    return {path for path in paths if path == ending or path.endswith(f".{ending}")}
