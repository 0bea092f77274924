"""A folder that PEFT wrote -> an adapter here; all of it, or one error that lists everything that does not fit."""

import dataclasses
import os
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from etils import epath

from lora_jax import axes, dora, targets
from lora_jax.config import LoRAConfig
from lora_jax.errors import PeftError
from lora_jax.files import require_path
from lora_jax.intake import tree_of
from lora_jax.leaves import Adapter, as_leaves, is_adapter_leaf
from lora_jax.peft import adapter_config, experts, keys, tensors, ties, tokens
from lora_jax.peft.described import described
from lora_jax.peft.experts import Parameters
from lora_jax.peft.keys import Found
from lora_jax.peft.misfits import misfits
from lora_jax.peft.model import Model, model_of
from lora_jax.peft.names import Names
from lora_jax.peft.places import Place
from lora_jax.peft.tensors import Layer
from lora_jax.products.places import kernel_at
from lora_jax.products.site import Site
from lora_jax.tree import Params, nested, opened

SHOWN = 8  # problems in one message


@dataclasses.dataclass(frozen=True, eq=False)
class Loaded:
    """What a folder holds, on a base; unpacks to its parameters and config.

    >>> params, config = Loaded(LoRAConfig(rank=1), {}, (), None, None)
    >>> config.rank
    1
    """

    config: LoRAConfig
    params: dict[str, Any]  # the base with its adapter, heads and biases
    train: tuple[str, ...]  # what the file has beside the adapters, for `trainable_mask(params, train=...)`
    base_model: str | None
    task_type: str | None
    # path of a table -> the rows that the file has (`trainable_token_indices`)
    token_rows: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)

    def __iter__(self) -> Iterator[Any]:
        return iter((self.params, self.config))


def load(
    folder: str | os.PathLike,
    base_params: Params,
    model: Mapping[str, Site] | nn.Module,
    *,
    names_of: Names | None = None,
    parameters: Parameters = Parameters(),
) -> Loaded:
    """Reads an adapter onto its base; `base_params` are not changed.

    Layers of a stack that have different ranks are padded with zeros to the largest; layers that have no adapter get one of zeros.
    A bias of lora_B (`lora_bias`) is added to the layer's own, scaled as PEFT does; rows of a table (`trainable_token_indices`) replace the base's.

    Args:
      folder: with `adapter_config.json` and `adapter_model.safetensors`.
      base_params: the parameters of the base module; an adapter in them is dropped.
      model: one of `lora_jax.models`, which knows its names and stacks; of any other its layout, `lora_jax.layout(base_module, example_input)`.
      names_of: as for `save`.
      parameters: as for `save`.

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
    layout, names_of = described(model, names_of, "peft.load")
    folder = epath.Path(require_path(folder, PeftError))
    values, leaves = adapter_config.read(folder), tree_of(base_params, "peft.load: base_params")
    leaves = {path: leaf for path, leaf in leaves.items() if not is_adapter_leaf(path)}
    twin = model_of(values, leaves, layout, names_of, parameters)
    found = keys.read(folder)
    adapters, lines = experts.resolved(values, found.adapters, twin.slots, parameters)
    found, copies = ties.without_copies(
        values, found._replace(adapters=adapters), twin.slots, twin.places, leaves, layout
    )
    problems = [*lines, *misfits(values, found, twin, copies)]
    if problems:
        more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise PeftError(f"{folder} does not fit this model: {'; '.join(problems[:SHOWN])}{more}.")
    read = {path: _layer(values, path, adapter, twin) for path, adapter in found.adapters.items()}
    kept = _beside(values, found, read, twin)
    return Loaded(
        _config(values, read, twin),
        nested({**leaves, **kept, **_assembled(read, twin.slots, layout, leaves)}),
        tuple(targets.exactly(path, leaves) for path in sorted(kept) if not _is_still(path, kept, read, twin)),
        values.get("base_model_name_or_path"),
        values.get("task_type"),
        {twin.places[f"{path}.weight"].path: tuple(rows) for path, rows in tokens.indices(values, found.rows).items()},
    )


def _layer(values: Mapping[str, Any], path: str, adapter: Mapping[str, np.ndarray], model: Model) -> Layer:
    slot, site = model.slots[path], model.site(path)
    scale = adapter_config.scale(values, model.called(path), model.rank(path, adapter))
    if model.is_parameter(path):
        return experts.from_torch(slot, site, adapter, scale, swapped=model.is_swapped(path, adapter))
    return tensors.from_torch(site, adapter, scale)


def _beside(values: Mapping[str, Any], found: Found, read: Mapping[str, Layer], model: Model) -> dict[str, Any]:
    """Leaf path -> value of what the file has beside its adapters: heads, biases, rows of tables."""
    kept = _kept(found.others, model.places, model.leaves, model.layout)
    kept |= _biases(read, model, kept)
    tokens.warn_of_ties(found.rows, model.places, model.leaves, model.layout)
    rows = tokens.filled(values, found.rows, model.places, model.leaves, kept, model.layout)
    return kept | {path: jnp.asarray(value, opened(model.leaves[path]).dtype) for path, value in rows.items()}


def _biases(read: Mapping[str, Layer], model: Model, kept: Mapping[str, Any]) -> dict[str, Any]:
    """Leaf path -> a layer's bias with that of lora_B in it."""
    found: dict[str, np.ndarray] = {}
    for torch_path, layer in read.items():
        slot = model.slots[torch_path]
        path = model.bias(slot)
        if layer.bias is None or path is None:
            continue
        value = found.setdefault(path, np.array(kept.get(path, opened(model.leaves[path])), np.float32))
        value[slot.index] += (np.float32(layer.scale) * layer.bias).reshape(value[slot.index].shape)
    return {path: jnp.asarray(value, opened(model.leaves[path]).dtype) for path, value in found.items()}


def _is_still(path: str, kept: Mapping[str, Any], read: Mapping[str, Layer], model: Model) -> bool:
    """Whether it is a kernel under an adapter that the file has as the base has it: PEFT saves a table whose adapter it saves."""
    adapted = {
        kernel_at(model.slots[torch_path].module, model.layout[model.slots[torch_path].module].leaf)
        for torch_path in read
    }
    return path in adapted and bool(jnp.array_equal(kept[path], nn.meta.unbox(model.leaves[path])))


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
    rank = max(layer.a.shape[-1] for layer in layers.values())
    a = np.zeros((*lead, some.a.shape[-2], rank), np.float32)
    b = np.zeros((*lead, rank, some.b.shape[-1]), np.float32)
    scale = np.full(lead, some.scale, np.float32)
    norm = magnitude = None
    if some.magnitude is not None:
        norm = dora.norm_of(
            jnp.asarray(nn.meta.unbox(kernel)), tuple(axis for axis, role in enumerate(site.roles) if role == "i")
        )
        magnitude = np.array(norm)
    for index, layer in layers.items():
        a[index][..., : layer.a.shape[-1]] = layer.a
        b[index][..., : layer.b.shape[-2], :] = layer.b
        scale[index] = layer.scale
        if magnitude is not None:
            magnitude[index] = layer.magnitude
    return Adapter(
        *map(jnp.asarray, (a, b, scale)), magnitude=None if norm is None else jnp.asarray(magnitude), norm=norm
    )


def _config(values: Mapping[str, Any], read, model: Model) -> LoRAConfig:
    """The config whose adapter this is; layers are named exactly."""
    ranks, alphas, roles = {}, {}, {}
    sites = {place: site.at(place) for place, site in model.layout.items()}
    names = [site.name for site in sites.values()]
    for path, layer in read.items():
        site = sites[model.slots[path].module]
        module = targets.exactly(site.name, names)
        roles |= {module: site.roles} if site.may_form else {}
        ranks[module] = max(ranks.get(module, 0), layer.a.shape[-1])
        alphas[module] = adapter_config.alpha(values, model.called(path), layer.a.shape[-1])
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
