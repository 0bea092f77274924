"""A folder that PEFT wrote -> an adapter here; all of it, or one error that lists everything that does not fit."""

import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from etils import epath

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
    folder = epath.Path(folder)
    values, names_of = adapter_config.read(folder), names.checked(names_of)
    leaves = {path: leaf for path, leaf in flat(base_params).items() if not is_adapter_leaf(path)}
    slots = names.slots(names.stacks(layout, leaves), names_of)
    found = _tensors(folder)
    adapters, others = _grouped(found)
    places = _places(leaves, layout, names_of)
    problems = [
        *adapter_config.idle(values, slots, adapters),
        *_unusable(found),
        *_untargeted(values, adapters, slots, layout),
        *_problems(values, adapters, slots, layout),
        *_odd(values, others, places, adapters),
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


def _unusable(found: Mapping[str, np.ndarray]) -> list[str]:
    """One phrase for each tensor whose numbers are no weights."""
    lines = []
    for key, tensor in sorted(found.items()):
        if not jnp.issubdtype(tensor.dtype, jnp.floating):
            lines.append(f"{key} is of {tensor.dtype}, expected floating point")
        elif not _is_finite(tensor):
            lines.append(f"{key} is not finite")
    return lines


def _is_finite(tensor: np.ndarray) -> bool:
    with np.errstate(over="ignore"):  # a float64 may be too large for the float32 that it is read as
        return bool(np.isfinite(np.asarray(tensor, np.float32)).all())


def _untargeted(values, adapters, slots: Mapping[str, Slot], layout) -> list[str]:
    """One phrase for each adapter that target_modules names and the file lacks, or the other way round."""
    sites = {path: layout[slot.module] for path, slot in slots.items()}
    named = adapter_config.targeted(
        values, {path: site.is_linear and tensors.is_matrix(site) for path, site in sites.items()}
    )
    missing, unnamed = named - adapters.keys(), (adapters.keys() & slots.keys()) - named
    if adapter_config.is_all_linear(values) and len(missing) == 1:
        missing = set()  # PEFT leaves the output layer out; which one that is, only torch's class knows
    return [
        *(f"missing the adapter of {path}, which target_modules names" for path in sorted(missing)),
        *(f"unexpected adapter of {path}, which target_modules does not name" for path in sorted(unnamed)),
    ]


def _problems(values, adapters, slots: Mapping[str, Slot], layout) -> list[str]:
    """One phrase for each tensor of an adapter that is missing, unexpected or of another shape or rank."""
    lines = []
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
    return lines if adapters else ["there is no adapter in it"]


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
        name = tensors.parameter_name(site, leaf)
        if name is None:
            continue
        for index, place in names.spelt(torch_module, shape):
            key = f"{place}.{name}" if place else name
            found[key] = Place(path, index, place, tensors.parameter_shape(site, leaf, shape[len(index) :]))
    return found


def _odd(values, others: Mapping[str, np.ndarray], places: Mapping[str, Place], adapters) -> list[str]:
    """One phrase for each tensor that this model has no place for, that nothing announces, or that has another shape."""
    lines = [f"unexpected {key}" for key in sorted(others) if key not in places]
    for key, tensor in sorted(others.items()):
        if key not in places:
            continue
        if not _is_announced(values, key, places[key], adapters):
            bias = values.get("bias") or "none"
            lines.append(f"unexpected {key}, of the base, which neither modules_to_save nor bias={bias!r} announces")
        elif tensor.shape != places[key].shape:
            lines.append(f"{key} is {list(tensor.shape)}, expected {list(places[key].shape)}")
    return lines


def _is_announced(values, key: str, place: Place, adapters) -> bool:
    """Whether the config says that the file has this parameter of the base."""
    heads = (*(values.get("modules_to_save") or ()), *adapter_config.heads_of_task(values))
    if _is_in(place.module, heads) or _is_promised_bias(values, key, place, adapters):
        return True
    if values.get("bias") == "all" and "bias" in key:  # PEFT's own rule: T5's relative_attention_bias.weight too
        return True
    return adapter_config.keeps_embeddings(values) and place.module.rpartition(".")[2] in adapter_config.EMBEDDINGS


def _is_in(module: str, heads: tuple[str, ...]) -> bool:
    """Whether a module is one of these heads or in one: PEFT goes by the last letters of names, of containers too."""
    parts = module.split(".")
    return bool(heads) and any(".".join(parts[:n]).endswith(heads) for n in range(1, len(parts) + 1))


def _is_promised_bias(values, key: str, place: Place, adapters) -> bool:
    bias = values.get("bias")
    return key.endswith("bias") and (bias == "all" or (bias == "lora_only" and place.module in adapters))


def _missing(values, others, places: Mapping[str, Place], adapters) -> list[str]:
    """What is promised, or begun, and not there: whole modules, biases, layers of a stack.

    modules_to_save may name modules that no model has ("score").
    """
    saved, bias = tuple(values.get("modules_to_save") or ()), values.get("bias", "none")
    begun = {places[key].path for key in others if key in places}
    heads = _begun_heads(values, others, places, adapters)
    lines = []
    for key, place in sorted(places.items()):
        if key in others:
            continue
        if _is_in(place.module, saved):
            lines.append(f"missing {key}, which modules_to_save names")
        elif _is_in(place.module, heads):
            lines.append(
                f"missing {key}, of a head that task_type={values['task_type']!r} trains and that is there in part"
            )
        elif _is_promised_bias(values, key, place, adapters):
            lines.append(f"missing {key}, which bias={bias!r} promises")
        elif place.path in begun:
            lines.append(f"missing {key}, a layer of a stack of which others are there")
    return lines


def _begun_heads(values, others, places: Mapping[str, Place], adapters) -> tuple[str, ...]:
    """The heads of the task that the file has a part of; one that was not trained need not be there."""
    own = [
        places[key].module
        for key in others
        if key in places and not _is_promised_bias(values, key, places[key], adapters)
    ]
    return tuple(
        head for head in adapter_config.heads_of_task(values) if any(_is_in(module, (head,)) for module in own)
    )


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
