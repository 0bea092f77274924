"""An adapter here -> a folder that PEFT loads."""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from lora_jax.config import LoRAConfig, require_a_config
from lora_jax.errors import PeftError
from lora_jax.files import as_safetensors, write_folder
from lora_jax.intake import adapted, require_values, tree_of
from lora_jax.norms import require_norms
from lora_jax.partition import Mask
from lora_jax.peft import adapter_config, beside, experts, names, tensors, ties, tokens
from lora_jax.peft import layers as layering
from lora_jax.peft.beside import Beside, Tree
from lora_jax.peft.described import described
from lora_jax.peft.experts import Parameters
from lora_jax.peft.keys import TENSORS
from lora_jax.peft.names import PREFIX, Names, Slot
from lora_jax.peft.places import places
from lora_jax.peft.tensors import Layer
from lora_jax.products.site import Site
from lora_jax.tree import Params

DTYPES = ("float32", "bfloat16", "float16")


def save(
    folder: str | os.PathLike,
    params: Params,
    config: LoRAConfig,
    model: Mapping[str, Site] | nn.Module,
    *,
    names_of: Names | None = None,
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
      model: one of `lora_jax.models`, which knows its names and stacks; of any other its layout, `lora_jax.layout(base_module, example_input)`.
      names_of: the torch module of a Flax module's path; "{}" stands for the index of a stacked layer. Of a kernel that torch's class has as a
        parameter with all experts in it, "layers.{}.experts.up[{}]", the parameter with the index in brackets; of another parameter that is no
        layer, "router.w[]". PEFT adapts these by `target_parameters`.
      mask: from `trainable_mask`; modules that train whole are saved with the adapter, as are biases. None says that there are none.
      base_model, task_type: said in the config ("SEQ_CLS" ...), for PEFT's automatic classes.
      fold_scaling: writes one rank for all with alpha equal to it, and the scales in lora_B, for servers that read no more.
      dtype: float32, bfloat16 or float16, of all tensors.
      base_params: the base's, which `lora_bias` and `token_rows` ask for; where they are given, a leaf that is no longer the base's and would
        not be in the folder is refused.
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
    ...     sorted(os.listdir(folder))
    ['adapter_config.json', 'adapter_model.safetensors']
    """
    require_a_config(config, "peft.save")
    layout, names_of = described(model, names_of, "peft.save")
    dtype, leaves = _dtype(dtype), adapted(params, "peft.save: params")
    require_values(leaves, "peft.save: params")
    require_norms(leaves, "peft.save")
    base = None if base_params is None else tree_of(base_params, "peft.save: base_params")
    tree = beside.Tree(leaves, layout, names_of, output_layer)
    layers, biased = _layers(tree, base, lora_bias)
    if fold_scaling:
        layers, config = layering.folded(layers), dataclasses.replace(config, scaling="alpha/r")
    layering.require_scales(layers)
    found = beside.kept(tree, mask, task_type, tokens.selected(token_rows, leaves), base, biased)
    own, outputs = _tensors(layers, tree, parameters)
    _require_no_dropout(config, tree.marked(layers))
    stored = _cast(found.stored | own, dtype)
    about = _config(
        tree,
        config,
        layers,
        outputs,
        found,
        base_model_name_or_path=base_model,
        lora_bias=lora_bias,
        task_type=task_type,
    )
    _write(folder, stored, about)


def _layers(tree: Tree, base: Mapping[str, Any] | None, lora_bias: bool) -> tuple[dict[str, Layer], set[str]]:
    """(torch path -> adapter, the biases that are written with them)."""
    layers = layering.layers_of(tree.leaves, tree.layout, tree.names_of, tree.output_layer)
    if not lora_bias:
        return layers, set()
    return layering.with_biases(layers, tree.slots, tree.layout, tree.leaves, base)


def _config(
    tree: Tree, config: LoRAConfig, layers: Mapping[str, Layer], outputs: Mapping[str, Layer], found: Beside, **about: Any
) -> dict[str, Any]:  # fmt: skip
    """What the folder's config says of these layers, of output layers that have an embedding's adapter, and of what is kept beside them."""
    layers, marked = {**layers, **outputs}, set(tree.marked(layers))
    beside.require_no_clash(found.modules_to_save, layers.keys() - marked)
    return adapter_config.written(
        config,
        {path: (layer.a.shape[-1], layer.scale) for path, layer in layers.items()},
        names.selection(layers.keys() - marked, tree.every | outputs.keys()),
        dora=layering.are_dora(layers),
        among=tree.every | layers.keys(),
        bias=found.bias,
        ensure_weight_tying=found.ensure_weight_tying or bool(outputs),
        modules_to_save=sorted(found.modules_to_save) or None,
        target_parameters=_selected(marked, places(tree.leaves, tree.layout, tree.names_of), tree.slots) or None,
        trainable_token_indices=found.token_indices or None,
        **about,
    )


def _write(folder: str | os.PathLike, stored: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
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


def _require_no_dropout(config: LoRAConfig, marked: Sequence[str]) -> None:
    if marked and config.dropout:
        raise PeftError(
            f"{min(marked)} is a parameter for torch, and PEFT has no dropout there: pass dataclasses.replace(config, dropout=0), and PEFT "
            "then trains on without dropout."
        )


def _tensors(
    layers: Mapping[str, Layer], tree: Tree, parameters: Parameters
) -> tuple[dict[str, np.ndarray], dict[str, Layer]]:
    """(key -> tensor of every adapter, torch path of an output layer -> adapter of the table that it is)."""
    found, outputs = {}, {}
    around = experts.wrappers(tree.marked(layers), parameters)
    for path, layer in layers.items():
        slot, site = tree.slots[path], tree.layout[tree.slots[path].module]
        own = (
            experts.to_torch(path, slot, site, layer, parameters.told(path))
            if slot.mark
            else tensors.to_torch(site, layer)
        )
        found |= {f"{around.get(path, path)}.{suffix}": tensor for suffix, tensor in own.items()}
        if ties.is_tied_table(site):
            output = ties.output_layer(path, tree.output_layer)
            outputs[output] = layer
            found |= {f"{output}.{suffix}": tensor for suffix, tensor in ties.adapter_of_output(own).items()}
    return found, outputs
