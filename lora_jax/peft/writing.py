"""An adapter here -> a folder that PEFT loads."""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from lora_jax import axes
from lora_jax.config import LoRAConfig
from lora_jax.errors import PeftError
from lora_jax.files import as_safetensors, write_folder
from lora_jax.leaves import Adapter, adapter_at, kernel_path, modules, require_fit, require_whole
from lora_jax.lowrank import pad_rank
from lora_jax.partition import Mask
from lora_jax.peft import adapter_config, beside, experts, names, tensors, ties, tokens
from lora_jax.peft.experts import Parameters
from lora_jax.peft.keys import TENSORS
from lora_jax.peft.names import PREFIX, Names, Slot, dotted
from lora_jax.peft.places import places, require_arrays
from lora_jax.peft.tensors import Layer
from lora_jax.products.site import Site
from lora_jax.tree import Params, flat, opened

DTYPES = ("float32", "bfloat16", "float16")


def save(
    folder: str | os.PathLike,
    params: Params,
    config: LoRAConfig,
    layout: Mapping[str, Site],
    *,
    names_of: Names = dotted,
    mask: Mask | None,
    base_model: str | None = None,
    task_type: str | None = None,
    fold_scaling: bool = False,
    dtype: Any = np.float32,
    base_params: Params | None = None,
    lora_bias: bool = False,
    token_rows: Sequence[str] | str = (),
    output_layer: str | None = None,
    parameters: Parameters = Parameters(),
) -> None:
    """Writes `adapter_config.json` and `adapter_model.safetensors`, byte for byte the same for the same adapter.

    Adapters begun by PiSSA or OLoRA are written as the plain LoRA of twice the rank that they are, [a | start_a] and [b; -start_b],
    for the unchanged base. Ranks and scales are those of the leaves, whatever the config says. What a tied table trains, or its adapter, is written
    for both of torch's modules, the embedding and the output layer. A head that the task asks for is written whether it trains or not.

    Args:
      folder: made where there is none.
      params: an adapted tree.
      config: for the scaling rule and dropout.
      layout: `lora_jax.layout(base_module, example_input)`.
      names_of: the torch module of a Flax module's path; "{}" stands for the index of a stacked layer. Of a kernel that torch's class has as a
        parameter with all experts in it, "layers.{}.experts.up[{}]", the parameter with the index in brackets; of another parameter that is no
        layer, "router.w[]". PEFT adapts these by `target_parameters`.
      mask: from `trainable_mask`; modules that train whole are saved with the adapter, as are biases. None says that there are none.
      base_model, task_type: said in the config ("SEQ_CLS" ...), for PEFT's automatic classes.
      fold_scaling: writes one rank for all with alpha equal to it, and the scales in lora_B, for servers that read no more.
      dtype: float32, bfloat16 or float16, of all tensors.
      base_params: the base's, which `lora_bias` and `token_rows` ask for.
      lora_bias: writes how far the biases of adapted layers are from the base's as biases of lora_B, instead of the biases themselves.
      token_rows: patterns for embeddings (or output layers) of which the rows that differ from the base's are written, as
        `trainable_token_indices`, and not the whole.
      output_layer: what torch calls the output layer that a tied table is, where it is not transformers' usual "lm_head".
      parameters: what torch's classes say about parameters that are adapted by `target_parameters`.

    Raises:
      PeftError: for what PEFT's format has no place for; nothing is written then.
      ModelError: when the folder cannot be written.

    >>> import tempfile, flax.linen as nn, jax, jax.numpy as jnp, lora_jax
    >>> base, x = nn.Dense(4, name="head"), jnp.ones((1, 3))
    >>> model = lora_jax.LoRA(base, LoRAConfig(rank=2, alpha=4, targets="*"))
    >>> params = {"head": model.init(jax.random.key(0), x)["params"]}
    >>> layout = {"head": lora_jax.layout(base, x)[""]}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(folder, params, model.config, layout, mask=None)
    ...     sorted(path.name for path in epath.Path(folder).iterdir())
    ['adapter_config.json', 'adapter_model.safetensors']
    """
    dtype, names_of, leaves = _dtype(dtype), names.checked(names_of), flat(params)
    require_arrays(leaves)
    require_whole(leaves)
    base = None if base_params is None else flat(base_params)
    every = names.universe(leaves, names_of)
    layers = _layers(leaves, layout, names_of, output_layer)
    biased = set()
    if lora_bias:
        layers, biased = _with_biases(layers, names.slots(names.stacks(layout, leaves), names_of), layout, leaves, base)
    if fold_scaling:
        layers, config = _folded(layers), dataclasses.replace(config, scaling="alpha/r")
    _require_scales(layers)
    tree = beside.Tree(leaves, layout, names_of, every, output_layer)
    found = beside.kept(tree, mask, task_type, tokens.selected(token_rows, leaves), base, biased)
    slots = names.slots(names.stacks(layout, leaves), names_of)
    own, tied = _tensors(layers, slots, layout, parameters, output_layer)
    layers |= {output: layers[table] for table, output in tied.items()}
    marked = {path for path in layers if path in slots and slots[path].mark}
    _require_no_dropout(config, marked)
    stored = _cast(found.stored | own, dtype)
    beside.require_no_clash(found.modules_to_save, layers.keys() - marked)
    about = adapter_config.written(
        config,
        {path: (layer.a.shape[-1], layer.scale) for path, layer in layers.items()},
        names.selection(layers.keys() - marked, every | set(tied.values())),
        dora=_is_dora(layers),
        among=every | layers.keys(),
        base_model_name_or_path=base_model,
        bias=found.bias,
        ensure_weight_tying=found.ensure_weight_tying or bool(tied),
        lora_bias=lora_bias,
        modules_to_save=sorted(found.modules_to_save) or None,
        target_parameters=_selected(marked, places(leaves, layout, names_of), slots) or None,
        task_type=task_type,
        trainable_token_indices=found.token_indices or None,
    )
    text = json.dumps(about, indent=2, sort_keys=True) + "\n"
    prefixed = {PREFIX + key: tensor for key, tensor in stored.items()}
    write_folder(folder, {TENSORS: as_safetensors(prefixed), adapter_config.NAME: text.encode()})


def _dtype(dtype: Any) -> np.dtype:
    try:
        found = jnp.dtype(dtype)
    except TypeError:
        found = None
    if found is None or found.name not in DTYPES:
        raise PeftError(f"dtype is {dtype!r}; it must be one of {', '.join(DTYPES)}.")
    return found


def _cast(stored: Mapping[str, np.ndarray], dtype: np.dtype) -> dict[str, np.ndarray]:
    """The tensors in this dtype; PeftError for one that is not finite, or too large for it."""
    found = {}
    for key, tensor in sorted(stored.items()):
        if not np.isfinite(tensor).all():
            raise PeftError(f"{key} is not finite; it diverged.")
        with np.errstate(over="ignore"):
            found[key] = np.asarray(tensor, np.float32).astype(dtype)
        if not np.isfinite(found[key].astype(np.float32)).all():
            raise PeftError(
                f"{key} has the value {np.abs(tensor).max():g}, which is too large for {dtype.name}; write float32 or bfloat16."
            )
    return found


def _selected(marked: set[str], known: Mapping[str, Any], slots: Mapping[str, Slot]) -> list[str]:
    """target_parameters: the shortest endings, among all parameters, that mean these."""
    chosen = names.selection(marked, {*known, *(path for path, slot in slots.items() if slot.mark), *marked})
    if isinstance(chosen, str):
        raise PeftError(
            f"PEFT selects parameters by the ends of their names, and one of {', '.join(sorted(marked))} ends another's: rename it by names_of=."
        )
    return chosen


def _require_no_dropout(config: LoRAConfig, marked: set[str]) -> None:
    if marked and config.dropout:
        raise PeftError(
            f"{min(marked)} is a parameter for torch, and PEFT has no dropout there: pass dataclasses.replace(config, dropout=0), which says that "
            "PEFT trains on without."
        )


def _tensors(
    layers: Mapping[str, Layer], slots: Mapping[str, Slot], layout, parameters: Parameters, output_layer: str | None
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """(key -> tensor of every adapter, torch path of a tied table -> that of its output layer, which has the same adapter)."""
    found, tied = {}, {}
    around = experts.wrappers([path for path in layers if slots[path].mark], parameters)
    for path, layer in layers.items():
        slot, site = slots[path], layout[slots[path].module]
        own = (
            experts.to_torch(path, site, layer, parameters.inputs_first)
            if experts.are_experts(slot)
            else tensors.to_torch(site, layer)
        )
        found |= {f"{around.get(path, path)}.{suffix}": tensor for suffix, tensor in own.items()}
        if ties.is_tied_table(site):
            tied[path] = ties.output_layer(path, output_layer)
            found |= {f"{tied[path]}.{suffix}": tensor for suffix, tensor in ties.adapter_of_output(own).items()}
    return found, tied


def _with_biases(layers: Mapping[str, Layer], slots, layout, leaves, base) -> tuple[dict[str, Layer], set[str]]:
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


def _layers(
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
    if not experts.are_experts(slot):
        return Layer(a, b, float(scale), None if m is None else np.asarray(m[slot.index]))
    if m is not None:
        raise PeftError(
            f"{path} is a parameter for torch, and PEFT has no magnitude (DoRA) there; merge it, or exclude it."
        )
    if (scale != scale[0]).any():
        a, b, scale = a, b * scale[:, None, None], np.ones_like(scale)  # PEFT has one scale for all experts
    return Layer(a, b, float(scale[0]))


def _is_dora(layers: Mapping[str, Layer]) -> bool:
    """Whether they have magnitudes, all of them: PEFT has one word for the whole adapter."""
    dora = {layer.magnitude is not None for layer in layers.values()}
    if len(dora) > 1:
        raise PeftError(
            "some of the layers have a magnitude (DoRA) and some have not; PEFT's format has one or the other."
        )
    return dora.pop()


def _require_scales(layers: Mapping[str, Layer]) -> None:
    for path, layer in layers.items():
        if not layer.scale > 0:
            raise PeftError(
                f"the scale of {path} is {layer.scale:g}, which no alpha gives; fold_scaling=True puts it into lora_B."
            )


def _folded(layers: Mapping[str, Layer]) -> dict[str, Layer]:
    """All of one rank by zero padding, scale 1, the scales in b."""
    rank = max(layer.a.shape[-1] for layer in layers.values())
    return {path: _fold(layer, rank) for path, layer in layers.items()}


def _fold(layer: Layer, rank: int) -> Layer:
    a, b = pad_rank(jnp.asarray(layer.a), layer.scale * jnp.asarray(layer.b), rank)
    bias = None if layer.bias is None else layer.scale * layer.bias
    return Layer(np.asarray(a), np.asarray(b), 1.0, layer.magnitude, bias)
