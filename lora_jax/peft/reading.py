"""A folder that PEFT wrote -> an adapter here; all of it, or one error that lists everything that does not fit."""

import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from lora_jax import dora
from lora_jax.config import LoRAConfig
from lora_jax.errors import PeftError
from lora_jax.files import read_safetensors
from lora_jax.layout import Site
from lora_jax.leaves import Adapter, as_leaves, is_adapter_leaf
from lora_jax.peft import adapter_config, names, tensors
from lora_jax.peft.names import PREFIX, Names, Slot, dotted
from lora_jax.peft.tensors import Layer
from lora_jax.peft.writing import TENSORS
from lora_jax.tree import Params, flat, nested

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
    kept, odd = _kept(others, leaves, layout, names_of)
    problems = [*_problems(values, adapters, slots, layout), *odd, *_missing_heads(values, kept, leaves, names_of)]
    if problems:
        more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise PeftError(f"{folder} does not fit this model: {'; '.join(problems[:SHOWN])}{more}.")
    read = {
        path: tensors.from_torch(
            layout[slots[path].module], found, adapter_config.scale(values, path, tensors.rank_of(found))
        )
        for path, found in adapters.items()
    }
    own = _assembled(read, slots, layout, leaves)
    return Loaded(
        _config(values, read, slots),
        nested({**leaves, **kept, **own}),
        tuple(sorted(kept)),
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
    return {_key(name): tensor for name, tensor in read_safetensors(folder / TENSORS).items()}


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
        rank = adapter_config.pattern_value(values.get("rank_pattern"), path, values["r"])
        expected = tensors.shapes(site, rank, dora=bool(values.get("use_dora")))
        lines += [f"missing {path}.{suffix}" for suffix in sorted(expected.keys() - found.keys())]
        lines += [f"unexpected {path}.{suffix}" for suffix in sorted(found.keys() - expected.keys())]
        lines += [
            f"{path}.{suffix} is {list(found[suffix].shape)}, expected {list(shape)}"
            for suffix, shape in expected.items()
            if suffix in found and found[suffix].shape != shape
        ]
    return lines if adapters else [*lines, "there is no adapter in it"]


def _kept(others, leaves, layout, names_of) -> tuple[dict[str, Any], list[str]]:
    """(leaf path -> value for what is no adapter: heads and biases, one phrase for each tensor that does not fit)."""
    where = {}
    for path in leaves:
        module, _, leaf = path.rpartition("/")
        torch_path = names_of(module)
        name, example = (
            tensors.module_to_torch(layout.get(module), leaf, leaves[path]) if "{}" not in torch_path else (leaf, None)
        )
        for index in np.ndindex(*leaves[path].shape[: torch_path.count("{}")]):
            where[".".join(part for part in (torch_path.format(*index), name) if part)] = path, index, example
    kept, odd = {}, []
    for key, tensor in sorted(others.items()):
        if key not in where:
            odd.append(f"unexpected {key}")
            continue
        path, index, example = where[key]
        shape = leaves[path][index].shape if example is None else example.shape
        if index == () and tensor.shape != shape:
            odd.append(f"{key} is {list(tensor.shape)}, expected {list(shape)}")
            continue
        module, _, leaf = path.rpartition("/")
        value = kept.get(path, leaves[path])
        if index:
            kept[path] = jnp.asarray(value).at[index].set(tensor.reshape(shape))
        else:
            kept[path] = jnp.asarray(
                tensors.module_from_torch(layout.get(module), leaf, leaves[path].shape, tensor), value.dtype
            )
    return kept, odd


def _missing_heads(values, kept, leaves, names_of) -> list[str]:
    """modules_to_save may name modules that no model has ("score"); one that this model has must be in the file, whole."""
    saved = set(values.get("modules_to_save") or ())
    lines = []
    for path in sorted(leaves):
        torch_path = names_of(path.rpartition("/")[0])
        if path not in kept and any(torch_path == name or torch_path.endswith(f".{name}") for name in saved):
            lines.append(f"missing {torch_path}.{path.rpartition('/')[2]}, which modules_to_save names")
    return lines


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
    lead = kernel.shape[: len(kernel.shape) - len(site.kernel)]
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


def _config(values: Mapping[str, Any], read, slots) -> LoRAConfig:
    """The config whose adapter this is; what departs from its rank and alpha is named by full paths."""
    ranks, alphas = {}, {}
    for path, layer in read.items():
        module = slots[path].module or "*"  # the root has no name
        ranks[module] = max(ranks.get(module, 0), layer.a.shape[1])
        alphas[module] = adapter_config.pattern_value(values.get("alpha_pattern"), path, values["lora_alpha"])
    return LoRAConfig(
        rank=values["r"],
        alpha=values["lora_alpha"],
        targets=sorted(ranks),
        scaling=adapter_config.RSLORA if values.get("use_rslora") else "alpha/r",
        dropout=values.get("lora_dropout") or 0.0,
        rank_pattern={module: rank for module, rank in ranks.items() if rank != values["r"]},
        alpha_pattern={module: alpha for module, alpha in alphas.items() if alpha != values["lora_alpha"]},
        dora=bool(values.get("use_dora")),
    )
