"""A folder that PEFT wrote -> an adapter here; all of it, or one error that lists everything that does not fit."""

import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from etils import epath

from lora_jax import axes, dora, targets
from lora_jax.config import LoRAConfig
from lora_jax.errors import PeftError
from lora_jax.files import read_safetensors
from lora_jax.leaves import Adapter, as_leaves, is_adapter_leaf
from lora_jax.peft import adapter_config, names, tensors
from lora_jax.peft.misfits import misfits
from lora_jax.peft.names import PREFIX, Names, dotted
from lora_jax.peft.places import Place, places
from lora_jax.peft.tensors import Layer
from lora_jax.peft.writing import TENSORS
from lora_jax.products.places import kernel_at
from lora_jax.products.site import Site
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
    folder = epath.Path(folder)
    values, names_of = adapter_config.read(folder), names.checked(names_of)
    leaves = {path: leaf for path, leaf in flat(base_params).items() if not is_adapter_leaf(path)}
    slots = names.slots(names.stacks(layout, leaves), names_of)
    found = _tensors(folder)
    adapters, others = _grouped(found)
    known = places(leaves, layout, names_of)
    problems = misfits(values, found, adapters, others, slots, known, layout)
    if problems:
        more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise PeftError(f"{folder} does not fit this model: {'; '.join(problems[:SHOWN])}{more}.")
    read = {}
    for path, found in adapters.items():
        scale = adapter_config.scale(values, path, tensors.rank_of(found))
        read[path] = tensors.from_torch(layout[slots[path].module], found, scale)
    kept = _kept(others, known, leaves, layout)
    return Loaded(
        _config(values, read, slots, layout),
        nested({**leaves, **kept, **_assembled(read, slots, layout, leaves)}),
        tuple(targets.exactly(path, leaves) for path in sorted(kept)),
        values.get("base_model_name_or_path"),
        values.get("task_type"),
    )


def _tensors(folder: epath.Path) -> dict[str, np.ndarray]:
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
        site = layout[module]
        kernel = leaves[kernel_at(module, site.leaf)]
        found |= as_leaves(_stacked(layers, site, kernel), f"{module}/".lstrip("/"))
    return found


def _stacked(layers: Mapping[tuple[int, ...], Layer], site: Site, kernel: Any) -> Adapter:
    shape = opened(kernel).shape
    lead = axes.sizes(tuple(shape), site.roles)["s"]
    some = next(iter(layers.values()))
    rank = max(layer.a.shape[1] for layer in layers.values())
    a = np.zeros((*lead, some.a.shape[0], rank), np.float32)
    b = np.zeros((*lead, rank, some.b.shape[1]), np.float32)
    scale = np.full(lead, some.scale, np.float32)
    norm = magnitude = None
    if some.magnitude is not None:
        norm = dora.norm_of(
            jnp.asarray(nn.meta.unbox(kernel)), tuple(axis for axis, role in enumerate(site.roles) if role == "i")
        )
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
    ranks, alphas, roles = {}, {}, {}
    sites = {place: site.at(place) for place, site in layout.items()}
    names = [site.name for site in sites.values()]
    for path, layer in read.items():
        site = sites[slots[path].module]
        module = targets.exactly(site.name, names)
        roles |= {module: site.roles} if site.may_form else {}
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
        roles=roles,
    )
