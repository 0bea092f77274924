"""Parameters that PEFT adapts by `target_parameters`: matrices that are no Linear, and stacks of experts.

PEFT wraps the module that holds the parameter; the wrapper of a second one goes around that of the first, in the order in which torch's class
makes them. Of E experts the factors lie in two matrices: lora_A [E * R, in], expert by expert, and lora_B [out, R * E], rank by rank. PEFT takes
a parameter's last axis for its inputs; where these come first, lora_A is on the outputs' side.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lora_jax import axes
from lora_jax.errors import PeftError
from lora_jax.peft import targeting
from lora_jax.peft.keys import LAYER
from lora_jax.peft.names import EXPERTS, Slot
from lora_jax.peft.tensors import LORA_A, LORA_B, Layer
from lora_jax.products.site import Site

Adapters = dict[str, dict[str, np.ndarray]]


class Parameters(NamedTuple):
    """What torch's classes say about parameters that are adapted themselves, and neither a file nor a Flax tree does.

    >>> Parameters(order=("w1", "w2")).inputs_first is None
    True
    """

    order: Sequence[str] = ("gate_up_proj", "down_proj")  # in which a class makes its parameters; this is transformers'
    # Whether they lie inputs first, [in, out] or [E, in, out], for all or by name; classes that say so of experts by `is_transposed` do not count.
    # So they lie in transformers 4's Llama 4 and gpt-oss. None: by shapes when reading, outputs first when writing; square ones must be told.
    inputs_first: bool | Mapping[str, bool] | None = None

    def told(self, path: str) -> bool | None:
        """Of the parameter at this torch path.

        >>> Parameters(inputs_first={"up": True}).told("experts.up"), Parameters().told("experts.up")
        (True, None)
        """
        if isinstance(self.inputs_first, Mapping):
            return self.inputs_first.get(path.rpartition(".")[2])
        return self.inputs_first


def resolved(
    values, adapters: Adapters, slots: Mapping[str, Slot], parameters: Parameters
) -> tuple[Adapters, list[str]]:
    """The adapters by the torch paths of what they adapt, whatever wraps it, and one phrase for each that cannot be told."""
    found, wrapped, lines = {}, {}, []
    for path, tensors in adapters.items():
        module = path.removesuffix(LAYER)
        while module.endswith(LAYER):
            module = module.removesuffix(LAYER)
        wrapped.setdefault(module, {})[path.count(LAYER, len(module))] = tensors
    held = _held(values, slots)
    for module, layers in wrapped.items():
        names = held.get(module, [])
        inside_out = [layers[depth] for depth in sorted(layers, reverse=True)]
        if not names:
            found |= {module + LAYER * depth: tensors for depth, tensors in layers.items()}
        elif len(names) != len(inside_out):
            lines.append(
                f"{module} has {len(inside_out)} adapters, and target_parameters names {', '.join(names)} of it"
            )
        else:
            found |= dict(zip(_in_order(names, parameters.order), inside_out, strict=True))
    return found, lines


def _held(values, slots: Mapping[str, Slot]) -> dict[str, list[str]]:
    """torch module -> the parameters of it that are targets."""
    found: dict[str, list[str]] = {}
    for path, slot in slots.items():
        if slot.mark and targeting.names_parameter(values, path):
            found.setdefault(path.rpartition(".")[0], []).append(path)
    return found


def _in_order(paths: Sequence[str], order: Sequence[str]) -> list[str]:
    """The parameters of one module as torch's class makes them: the first is wrapped first, so that it is innermost."""
    unknown = [path for path in paths if path.rpartition(".")[2] not in order]
    if unknown and len(paths) > 1:
        raise PeftError(
            f"{unknown[0]} is one of {len(paths)} parameters of its module, and PEFT goes by the order in which torch's class makes them: tell it "
            "by parameters=lora_jax.peft.Parameters(order=(...))."
        )
    return sorted(paths, key=lambda path: order.index(path.rpartition(".")[2])) if len(paths) > 1 else list(paths)


def wrappers(paths: Sequence[str], parameters: Parameters) -> dict[str, str]:
    """Path of a parameter -> that of its wrapper in the file.

    >>> wrappers(["experts.down_proj", "experts.gate_up_proj"], Parameters())
    {'experts.gate_up_proj': 'experts.base_layer', 'experts.down_proj': 'experts'}
    """
    of_module: dict[str, list[str]] = {}
    for path in paths:
        of_module.setdefault(path.rpartition(".")[0], []).append(path)
    found = {}
    for module, own in of_module.items():
        ordered = _in_order(own, parameters.order)
        found |= {path: module + LAYER * (len(ordered) - 1 - i) for i, path in enumerate(ordered)}
    return found


def are_experts(slot: Slot) -> bool:
    """Whether the parameter holds them all."""
    return slot.mark == EXPERTS


def sizes(slot: Slot, site: Site) -> tuple[int, int, int]:
    """(E, D, K)."""
    stack, d, k = axes.matrices(site.shape, site.roles)
    return stack[-1] if are_experts(slot) else 1, d, k


def is_swapped(path: str, slot: Slot, site: Site, tensors: Mapping[str, np.ndarray], told: bool | None) -> bool:
    """Whether lora_A is on the outputs' side, by the shapes of the factors.

    Raises:
      PeftError: for square matrices of which nothing is told.
    """
    _, d, k = sizes(slot, site)
    _require_told(path, d, k, told)
    if d == k:
        return bool(told)
    a = tensors.get(LORA_A)
    return a is not None and a.ndim == 2 and a.shape[1] == k


def _require_told(path: str, d: int, k: int, told: bool | None) -> None:
    if d == k and told is None:
        raise PeftError(
            f"{path} holds square matrices, {d} by {k}, so that shapes do not tell which side is which: say how torch's class lays them by "
            "parameters=lora_jax.peft.Parameters(inputs_first=...)."
        )


def shapes(slot: Slot, site: Site, rank: int, *, swapped: bool) -> dict[str, tuple[int, ...]]:
    """The shapes that PEFT's tensors of such a parameter have."""
    e, d, k = sizes(slot, site)
    into, out = (k, d) if swapped else (d, k)
    return {LORA_A: (e * rank, into), LORA_B: (out, rank * e)}


def to_torch(path: str, slot: Slot, site: Site, layer: Layer, told: bool | None) -> dict[str, np.ndarray]:
    """Suffix of the key -> tensor, float32."""
    e, d, k = sizes(slot, site)
    _require_told(path, d, k, told)
    a, b = (side.reshape(e, *side.shape[-2:]) for side in (layer.a, layer.b))
    into, out = (b, a.swapaxes(1, 2)) if site.is_transposed else (a.swapaxes(1, 2), b)  # [E, R, D], [E, R, K]
    if told:
        into, out = out, into
    r = into.shape[1]
    found = {LORA_A: into.reshape(e * r, -1), LORA_B: out.transpose(2, 1, 0).reshape(-1, r * e)}
    return {name: np.ascontiguousarray(tensor, np.float32) for name, tensor in found.items()}


def from_torch(slot: Slot, site: Site, tensors: Mapping[str, np.ndarray], scale: float, *, swapped: bool) -> Layer:
    """The inverse of `to_torch`, of tensors whose shapes `shapes` gave."""
    e, _, _ = sizes(slot, site)
    a, b = (np.asarray(tensors[name], np.float32) for name in (LORA_A, LORA_B))
    into, out = a.reshape(e, -1, a.shape[1]), b.reshape(len(b), -1, e).transpose(2, 1, 0)
    if swapped:
        into, out = out, into
    a, b = (out.swapaxes(1, 2), into) if site.is_transposed else (into.swapaxes(1, 2), out)
    return Layer(a, b, scale) if are_experts(slot) else Layer(a[0], b[0], scale)
