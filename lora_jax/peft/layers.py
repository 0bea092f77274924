"""The adapters of a tree, layer by layer, as PEFT may have them."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from lora_jax import axes
from lora_jax.errors import PeftError
from lora_jax.leaves import Adapter, adapter_at, kernel_path, modules, require_fit
from lora_jax.lowrank import pad_rank
from lora_jax.peft import experts, names, tensors, ties
from lora_jax.peft.names import Names, Slot
from lora_jax.peft.tensors import Layer
from lora_jax.products.site import Site
from lora_jax.tree import opened


def layers_of(
    leaves: Mapping[str, Any], layout: Mapping[str, Site], names_of: Names, output_layer: str | None
) -> dict[str, Layer]:
    """torch path -> adapter, each layer of a stack on its own; the experts of a parameter together."""
    adapted = [module.rstrip("/") for module in modules(leaves)]
    if not adapted:
        raise PeftError("these parameters hold no adapter; lora_jax.adapt makes one.")
    strange = [module for module in adapted if module not in layout]
    if strange:
        raise PeftError(
            f"the layout is of another model: it has no {strange[0]!r}; make it by lora_jax.layout(base_module, x)."
        )
    stacks = names.stacks({module: layout[module] for module in adapted}, leaves)
    found = {}
    for path, slot in names.slots(stacks, names_of).items():
        site = layout[slot.module]
        tied = ties.is_tied_table(site) and bool(ties.output_layer(path, output_layer))
        prefix = f"{slot.module}/".lstrip("/")
        adapter = adapter_at(leaves, prefix)
        tensors.require_torch_layout(slot.module, site, ties=tied and adapter.magnitude is None)
        kernel = kernel_path(leaves, prefix)
        require_fit(kernel, opened(leaves[kernel]).shape, adapter, prefix)
        found[path] = _layer(path, slot, adapter)
        if not all(np.isfinite(leaf).all() for leaf in found[path] if leaf is not None):
            raise PeftError(f"the adapter of {slot.module} is not finite; it diverged.")
    return found


def _layer(path: str, slot: Slot, adapter: Adapter) -> Layer:
    (a, b), m = adapter.factors(), adapter.magnitude
    a, b, scale = (np.asarray(leaf[slot.index]) for leaf in (a, b, adapter.scale))
    if slot.mark and m is not None:
        raise PeftError(
            f"{path} is a parameter for torch, and PEFT has no magnitude (DoRA) there; merge it, or exclude it."
        )
    if not experts.are_experts(slot):
        return Layer(a, b, float(scale), None if m is None else np.asarray(m[slot.index]))
    if (scale != scale[0]).any():
        a, b, scale = a, b * scale[:, None, None], np.ones_like(scale)  # PEFT has one scale for all experts
    return Layer(a, b, float(scale[0]))


def are_dora(layers: Mapping[str, Layer]) -> bool:
    """Whether they have magnitudes, all of them: PEFT has one word for the whole adapter."""
    dora = {layer.magnitude is not None for layer in layers.values()}
    if len(dora) > 1:
        raise PeftError(
            "some of the layers have a magnitude (DoRA) and some have not; PEFT's format has one or the other."
        )
    return dora.pop()


def require_scales(layers: Mapping[str, Layer]) -> None:
    """Raises PeftError for a scale that no alpha gives.

    >>> require_scales({"head": Layer(np.ones((2, 1)), np.ones((1, 2)), 0.5)})
    """
    for path, layer in layers.items():
        if not layer.scale > 0:
            raise PeftError(
                f"the scale of {path} is {layer.scale:g}, which no alpha gives; fold_scaling=True puts it into lora_B."
            )


def folded(layers: Mapping[str, Layer]) -> dict[str, Layer]:
    """All of one rank by zero padding, scale 1, the scales in b."""
    rank = max(layer.a.shape[-1] for layer in layers.values())
    return {path: _fold(layer, rank) for path, layer in layers.items()}


def _fold(layer: Layer, rank: int) -> Layer:
    a, b = pad_rank(jnp.asarray(layer.a), layer.scale * jnp.asarray(layer.b), rank)
    bias = None if layer.bias is None else layer.scale * layer.bias
    return Layer(np.asarray(a), np.asarray(b), 1.0, layer.magnitude, bias)


def with_biases(layers: Mapping[str, Layer], slots, layout, leaves, base) -> tuple[dict[str, Layer], set[str]]:
    """The layers with what their biases are more than the base's, and the leaves of these."""
    if base is None:
        raise PeftError("lora_bias=True asks how far the biases are from the base's: pass base_params=.")
    found, biased = {}, set()
    for path, layer in layers.items():
        slot, site = slots[path], layout[slots[path].module]
        kind = "a parameter" if slot.mark else "an embedding" if site.is_lookup else "a DoRA"
        if slot.mark or site.is_lookup or layer.magnitude is not None:
            raise PeftError(
                f"lora_bias=True, and PEFT has no such bias at {path}, which is {kind}; leave one of them out."
            )
        leaf, (_, _, k) = f"{slot.module}/bias".lstrip("/"), axes.matrices(site.shape, site.roles)
        value = np.zeros(k, np.float32)
        if site.is_beside and leaf in leaves:
            if leaf not in base:
                raise PeftError(f"lora_bias=True: base_params has no {leaf}; pass the whole base.")
            now, before = (
                np.asarray(opened(tree[leaf]), np.float32)[slot.index].reshape(-1) for tree in (leaves, base)
            )
            value = (now - before) / np.float32(layer.scale)
            biased.add(leaf)
        found[path] = layer._replace(bias=value)
    return found, biased
