"""Adapters put into an NNX model, and taken out as a tree."""

import zlib
from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx

from lora_jax.leaves import SCALE, Adapter, as_leaves
from lora_jax.nnx import classes, holders
from lora_jax.nnx.holders import DROPOUT, Path, place
from lora_jax.nnx.trees import named
from lora_jax.nnx.variables import LoRAParam
from lora_jax.tree import nested


def inject(model: nnx.Module, adapters: Mapping[Path, list[tuple[str, Adapter]]], dropout: float, key: Any) -> None:
    """Puts the adapters, (roles, adapter) by their kernels' paths, into a model, in place."""
    found = dict(nnx.iter_graph(model))
    kernels = {
        id(found[path]): [(roles, holders.variables(adapter)) for roles, adapter in own]
        for path, own in adapters.items()
    }
    modules = {path: value for path, value in found.items() if holders.is_module(value)}
    around = [module for module in modules.values() if any(id(value) in kernels for _, value in nnx.iter_graph(module))]
    is_on = key is not None and not is_evaluating(model)
    for path, module in modules.items():
        stack: tuple[int, ...] | None = None
        for kernel, variable in holders.own_variables(module).items():
            for roles, leaves in kernels.get(id(variable), ()):
                holders.put(module, kernel, roles, leaves)
                stack = leaves[SCALE].shape
        if stack is not None and dropout:
            own = None if key is None else jax.random.fold_in(key, zlib.crc32(named(path).encode()))
            setattr(module, DROPOUT, holders.streamed(dropout, own, stack, is_on))
    for module in around:
        module.__class__ = classes.adapted(type(module))


def is_evaluating(model: nnx.Module) -> bool:
    """Whether all of a model's parts that have a mode (`deterministic`) are in that of evaluation."""
    flags = [vars(module).get("deterministic") for _, module in nnx.iter_modules(model)]
    known = [flag for flag in flags if isinstance(flag, bool)]
    return bool(known) and all(known)


def extracted(model: nnx.Module) -> dict[str, Any]:
    """The tree of an injected model."""
    state = nnx.state(model, nnx.All(nnx.Param, nnx.Not(LoRAParam)))
    leaves = {named(path): leaf[...] for path, leaf in nnx.to_flat_state(state)}
    for one in holders.held(model):
        leaves |= as_leaves(one.adapter, place(named(one.kernel), one.roles))
    return nested(leaves)
