"""A folder that PEFT wrote -> an adapter here; all of it, or one error that lists everything that does not fit."""

import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from lora_jax import dora, targets
from lora_jax.config import LoRAConfig
from lora_jax.errors import PeftError
from lora_jax.files import read_safetensors
from lora_jax.layout import Site
from lora_jax.leaves import Adapter, as_leaves, is_adapter_leaf
from lora_jax.peft import adapter_config, names, tensors
from lora_jax.peft.names import PREFIX, Names, Slot, dotted
from lora_jax.peft.tensors import Layer
from lora_jax.peft.writing import TENSORS
from lora_jax.tree import Params, flat, nested, opened

PICKLED = "adapter_model.bin"
SHOWN = 8  # problems in one message


class Loaded(NamedTuple):
    """What a folder holds, on a base."""

    config: LoRAConfig
    params: dict[str, Any]  # the base with its adapter, heads and biases
    train: tuple[str, ...]  # what the file has beside the adapters, for `trainable_mask(params, train=...)`
    base_model: str | None
    task_type: str | None


def load(
    folder: str | os.PathLike, base_params: Params, layout: Mapping[str, Site], *, names_of: Names = dotted
) -> Loaded:
    """Reads an adapter onto its base; `base_params` are not changed.

    Layers of a stack that have different ranks are padded with zeros to the largest; layers that have no adapter get one of zeros.

    Args:
      folder: with `adapter_config.json` and `adapter_model.safetensors`.
      base_params: the parameters of the base module; an adapter in them is dropped.
      layout: `lora_jax.layout(base_module, example_input)`.
      names_of: as for `save`.

    Raises:
      PeftError: for a folder that cannot be read, options that are not supported (by name), or tensors that do not fit this
        model: every missing, unexpected and mis-shaped one is listed.

    >>> import tempfile, flax.linen as nn, jax, lora_jax
    >>> base, x = nn.Dense(4, name="head"), jnp.ones((1, 3))
    >>> model = lora_jax.LoRA(base, LoRAConfig(rank=2, alpha=4, targets="*"))
    >>> params, layout = {"head": model.init(jax.random.key(0), x)["params"]}, {"head": lora_jax.layout(base, x)[""]}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     lora_jax.peft.save(folder, params, model.config, layout, mask=None)
    ...     found = load(folder, lora_jax.strip(params), layout)
    >>> found.config.targets, float(found.params["head"]["lora_scale"])
    (('head',), 2.0)
    """
    folder = pathlib.Path(folder)
    values = adapter_config.read(folder)
    leaves = {path: leaf for path, leaf in flat(base_params).items() if not is_adapter_leaf(path)}
    slots = names.slots(names.stacks(layout, leaves), names_of)
    adapters, others = _grouped(_tensors(folder))
    places = _places(leaves, layout, names_of)
    problems = [
        *_problems(values, adapters, slots, layout),
        *_odd(others, places),
        *_missing(values, others, places, adapters),
    ]
    if problems:
        more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise PeftError(f"{folder} does not fit this model: {'; '.join(problems[:SHOWN])}{more}.")
    read = {}
    for path, found in adapters.items():
        scale = adapter_config.scale(values, path, tensors.rank_of(found))
        read[path] = tensors.from_torch(layout[slots[path].module], found, scale)
    kept = _kept(others, places, leaves, layout)
    return Loaded(
        _config(values, read, slots, layout),
        nested({**leaves, **kept, **_assembled(read, slots, layout, leaves)}),
        tuple(targets.exactly(path, leaves) for path in sorted(kept)),
        values.get("base_model_name_or_path"),
        values.get("task_type"),
    )


def _tensors(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """Normalised key -> tensor."""
    if not (folder / TENSORS).is_file():
        also = (
            f"; {PICKLED} is a pickle, which may run code: convert it in PEFT by save_pretrained(folder)"
            if (folder / PICKLED).is_file()
            else ""
        )
        raise PeftError(f"{folder}: there is no {TENSORS} in it{also}.")
    found: dict[str, np.ndarray] = {}
    for name, tensor in read_safetensors(folder / TENSORS).items():
        if _key(name) in found:
            raise PeftError(f"{folder / TENSORS} has {_key(name)} twice, under two names.")
        found[_key(name)] = tensor
    return found


def _key(name: str) -> str:
    """A key without what wrappers add to it.

    >>> _key("base_model.model._orig_mod.layer.lora_A.default.weight"), _key("classifier.modules_to_save.default.bias")
    ('layer.lora_A.weight', 'classifier.bias')
    """
    name = name.removeprefix(PREFIX).replace("_orig_mod.", "").replace(".base_layer.", ".")
    name = re.sub(r"\.(lora_[A-Za-z_]+)\.default(?=\.|$)", r".\1", name)
    return re.sub(r"\.modules_to_save(\.default)?\.", ".", name)


def _grouped(found: Mapping[str, np.ndarray]) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, np.ndarray]]:
    """(torch path -> suffix -> tensor of its adapter, everything else)."""
    adapters: dict[str, dict[str, np.ndarray]] = {}
    others = {}
    for key, tensor in found.items():
        suffix = next((s for s in tensors.SUFFIXES if key.endswith(f".{s}")), None)
        if suffix is None:
            others[key] = tensor
        else:
            adapters.setdefault(key.removesuffix(f".{suffix}"), {})[suffix] = tensor
    return adapters, others


def _problems(values, adapters, slots: Mapping[str, Slot], layout) -> list[str]:
    """One phrase for each tensor of an adapter that is missing, unexpected or of another shape or rank."""
    lines = []
    for path in sorted(adapter_config.targeted(values, slots) - adapters.keys()):
        lines.append(f"missing the adapter of {path}, which target_modules names")
    for path, found in sorted(adapters.items()):
        if path not in slots:
            lines.append(f"unexpected {path}, which is no layer of this model")
            continue
        site = layout[slots[path].module]
        tensors.require_torch_layout(path, site)
        rank, allowed = tensors.rank_of(found) or 1, adapter_config.ranks(values, path)
        expected = tensors.shapes(
            site, rank if not allowed or rank in allowed else min(allowed), dora=bool(values.get("use_dora"))
        )
        lines += [f"missing {path}.{suffix}" for suffix in sorted(expected.keys() - found.keys())]
        lines += [f"unexpected {path}.{suffix}" for suffix in sorted(found.keys() - expected.keys())]
        lines += [
            f"{path}.{suffix} is {list(found[suffix].shape)}, expected {list(shape)}"
            for suffix, shape in expected.items()
            if suffix in found and found[suffix].shape != shape
        ]
    return lines if adapters else [*lines, "there is no adapter in it"]


class Place(NamedTuple):
    """Where a tensor that belongs to no adapter lies in the Flax tree."""

    path: str
    index: tuple[int, ...]  # of the layer within its stack
    module: str  # torch's path of the module
    shape: tuple[int, ...]  # that the tensor has


def _places(leaves: Mapping[str, Any], layout: Mapping[str, Site], names_of: Names) -> dict[str, Place]:
    """torch key -> place, of every parameter of the base that torch has a name for; nothing is copied."""
    found = {}
    for path, value in leaves.items():
        module, _, leaf = path.rpartition("/")
        site, torch_module, shape = layout.get(module), names_of(module), opened(value).shape
        name, depth = tensors.parameter_name(site, leaf), torch_module.count("{}")
        if name is None:
            continue
        for index in np.ndindex(*shape[:depth]):
            place = torch_module.format(*index)
            key = f"{place}.{name}" if place else name
            found[key] = Place(path, index, place, tensors.parameter_shape(site, leaf, shape[depth:]))
    return found


def _odd(others: Mapping[str, np.ndarray], places: Mapping[str, Place]) -> list[str]:
    """One phrase for each tensor that this model has no place for, or another shape."""
    lines = [f"unexpected {key}" for key in sorted(others) if key not in places]
    for key, tensor in sorted(others.items()):
        if key in places and tensor.shape != places[key].shape:
            lines.append(f"{key} is {list(tensor.shape)}, expected {list(places[key].shape)}")
    return lines


def _missing(values, others, places: Mapping[str, Place], adapters) -> list[str]:
    """What is promised, or begun, and not there: whole modules, biases, layers of a stack.

    modules_to_save may name modules that no model has ("score"); PEFT goes by the last letters of names, of containers too.
    """
    saved, bias = tuple(values.get("modules_to_save") or ()), values.get("bias", "none")
    begun = {places[key].path for key in others if key in places}
    lines = []
    for key, place in sorted(places.items()):
        if key in others:
            continue
        parts = place.module.split(".")
        prefixes = [".".join(parts[:n]) for n in range(1, len(parts) + 1)]
        if saved and any(prefix.endswith(saved) for prefix in prefixes):
            lines.append(f"missing {key}, which modules_to_save names")
        elif key.endswith("bias") and (bias == "all" or (bias == "lora_only" and place.module in adapters)):
            lines.append(f"missing {key}, which bias={bias!r} promises")
        elif place.path in begun:
            lines.append(f"missing {key}, a layer of a stack of which others are there")
    return lines


def _kept(others, places: Mapping[str, Place], leaves, layout) -> dict[str, Any]:
    """Leaf path -> value of heads and biases."""
    found: dict[str, Any] = {}
    for key, tensor in others.items():
        path, index, _, _ = places[key]
        module, _, leaf = path.rpartition("/")
        shape = opened(leaves[path]).shape
        value = found.setdefault(path, np.empty(shape, np.float32))
        value[index] = tensors.parameter_from_torch(layout.get(module), leaf, shape[len(index) :], tensor)
    return {path: jnp.asarray(value, opened(leaves[path]).dtype) for path, value in found.items()}


def _assembled(read: Mapping[str, Layer], slots, layout, leaves) -> dict[str, Any]:
    """Leaf path -> value of every adapter, layers of a stack put together."""
    of_module: dict[str, dict[tuple[int, ...], Layer]] = {}
    for path, layer in read.items():
        of_module.setdefault(slots[path].module, {})[slots[path].index] = layer
    found = {}
    for module, layers in of_module.items():
        site, prefix = layout[module], f"{module}/".lstrip("/")
        kernel = leaves[prefix + site.leaf]
        found |= as_leaves(_stacked(layers, site, kernel), prefix)
    return found


def _stacked(layers: Mapping[tuple[int, ...], Layer], site: Site, kernel: Any) -> Adapter:
    shape = opened(kernel).shape
    lead = shape[: len(shape) - len(site.kernel)]
    some = next(iter(layers.values()))
    rank = max(layer.a.shape[1] for layer in layers.values())
    a = np.zeros((*lead, some.a.shape[0], rank), np.float32)
    b = np.zeros((*lead, rank, some.b.shape[1]), np.float32)
    scale = np.full(lead, some.scale, np.float32)
    norm = magnitude = None
    if some.magnitude is not None:
        norm = dora.norm_of(jnp.asarray(nn.meta.unbox(kernel)), tuple(i + len(lead) for i in site.inputs))
        magnitude = np.array(norm)
    for index, layer in layers.items():
        a[(*index, slice(None), slice(layer.a.shape[1]))] = layer.a
        b[(*index, slice(layer.b.shape[0]))] = layer.b
        scale[index] = layer.scale
        if magnitude is not None:
            magnitude[index] = layer.magnitude
    return Adapter(
        *map(jnp.asarray, (a, b, scale)), magnitude=None if norm is None else jnp.asarray(magnitude), norm=norm
    )


def _config(values: Mapping[str, Any], read, slots, layout) -> LoRAConfig:
    """The config whose adapter this is; layers are named exactly."""
    ranks, alphas = {}, {}
    for path, layer in read.items():
        module = targets.exactly(slots[path].module, layout)
        ranks[module] = max(ranks.get(module, 0), layer.a.shape[1])
        alphas[module] = adapter_config.alpha(values, path, layer.a.shape[1])
    usual = values.get("r") or max(ranks.values())
    return LoRAConfig(
        rank=usual,
        alpha=values["lora_alpha"],
        targets=sorted(ranks),
        scaling=adapter_config.RSLORA if values.get("use_rslora") else "alpha/r",
        dropout=values.get("lora_dropout") or 0.0,
        rank_pattern={module: rank for module, rank in ranks.items() if rank != usual},
        alpha_pattern={module: alpha for module, alpha in alphas.items() if alpha != values["lora_alpha"]},
        dora=bool(values.get("use_dora")),
    )
