"""An adapter here -> a folder that PEFT loads."""

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from lora_jax.config import LoRAConfig
from lora_jax.errors import PeftError
from lora_jax.files import as_safetensors, write_folder
from lora_jax.leaves import adapter_at, is_adapter_leaf, kernel_path, modules, owner, owners, require_fit
from lora_jax.lowrank import pad_rank
from lora_jax.partition import Mask, trainable_paths
from lora_jax.peft import adapter_config, names, tensors
from lora_jax.peft.names import PREFIX, Names, dotted
from lora_jax.peft.tensors import Layer
from lora_jax.products.site import Site
from lora_jax.tree import Params, flat, nested, opened

TENSORS = "adapter_model.safetensors"


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
) -> None:
    """Writes `adapter_config.json` and `adapter_model.safetensors`, byte for byte the same for the same adapter.

    Adapters begun by PiSSA or OLoRA are written as the plain LoRA of twice the rank that they are, [a | start_a] and [b; -start_b],
    for the unchanged base. Ranks and scales are those of the leaves, whatever the config says.

    Args:
      folder: made where there is none.
      params: an adapted tree.
      config: for the scaling rule and dropout.
      layout: `lora_jax.layout(base_module, example_input)`.
      names_of: the torch module of a Flax module's path; "{}" stands for the index of a stacked layer.
      mask: from `trainable_mask`; modules that train whole are saved with the adapter, as are biases. None says that there are none.
      base_model, task_type: said in the config ("SEQ_CLS" ...), for PEFT's automatic classes.
      fold_scaling: writes one rank for all with alpha equal to it, and the scales in lora_B, for servers that read no more.

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
    leaves, names_of = flat(params), names.checked(names_of)
    every = names.universe(leaves, names_of)
    layers = _layers(leaves, layout, names_of)
    if fold_scaling:
        layers, config = _folded(layers), dataclasses.replace(config, scaling="alpha/r")
    _require_scales(layers)
    heads, bias, stored = _kept(leaves, layout, names_of, mask, every)
    slots = names.slots(names.stacks(layout, leaves), names_of)
    for path, layer in layers.items():
        torch_tensors = tensors.to_torch(layout[slots[path].module], layer)
        stored |= {f"{PREFIX}{path}.{suffix}": tensor for suffix, tensor in torch_tensors.items()}
    _require_finite(stored)
    about = adapter_config.written(
        config,
        {path: (layer.a.shape[1], layer.scale) for path, layer in layers.items()},
        names.selection(set(layers), every),
        dora=_is_dora(layers),
        among=every,
        base_model_name_or_path=base_model,
        bias=bias,
        modules_to_save=heads or None,
        task_type=task_type,
    )
    text = json.dumps(about, indent=2, sort_keys=True) + "\n"
    write_folder(folder, {TENSORS: as_safetensors(stored), adapter_config.NAME: text.encode()})


def _layers(leaves: Mapping[str, Any], layout: Mapping[str, Site], names_of: Names) -> dict[str, Layer]:
    """torch path -> adapter, each layer of a stack on its own."""
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
    for path, (module, index) in names.slots(stacks, names_of).items():
        tensors.require_torch_layout(module, layout[module])
        prefix = f"{module}/".lstrip("/")
        adapter = adapter_at(leaves, prefix)
        kernel = kernel_path(leaves, prefix)
        require_fit(kernel, opened(leaves[kernel]).shape, adapter, prefix)
        (a, b), m = adapter.factors(), adapter.magnitude
        magnitude = None if m is None else np.asarray(m[index])
        found[path] = Layer(np.asarray(a[index]), np.asarray(b[index]), float(adapter.scale[index]), magnitude)
        if not all(np.isfinite(leaf).all() for leaf in found[path] if leaf is not None):
            raise PeftError(f"the adapter of {module} is not finite; it diverged.")
    return found


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


def _require_finite(stored: Mapping[str, np.ndarray]) -> None:
    odd = sorted(key.removeprefix(PREFIX) for key, tensor in stored.items() if not np.isfinite(tensor).all())
    if odd:
        raise PeftError(f"{odd[0]} is not finite; it diverged.")


def _folded(layers: Mapping[str, Layer]) -> dict[str, Layer]:
    """All of one rank by zero padding, scale 1, the scales in b."""
    rank = max(layer.a.shape[1] for layer in layers.values())
    return {path: _fold(layer, rank) for path, layer in layers.items()}


def _fold(layer: Layer, rank: int) -> Layer:
    a, b = pad_rank(jnp.asarray(layer.a), layer.scale * jnp.asarray(layer.b), rank)
    return Layer(np.asarray(a), np.asarray(b), 1.0, layer.magnitude)


def _kept(leaves, layout, names_of, mask, every: set[str]) -> tuple[list[str], str, dict[str, np.ndarray]]:
    """(modules_to_save, bias, key -> tensor) of what trains beside the adapters."""
    trained = set() if mask is None else trainable_paths(mask, nested(leaves))
    trained = {path for path in trained if not is_adapter_leaf(path)}
    bias, biases = _biases(trained, leaves)
    adapted, found = owners(leaves), {}
    for path in sorted(biases):
        name = names_of(path.rpartition("/")[0])
        inner = ".base_layer" if path.removesuffix("bias") in adapted else ""
        for torch_path, part in _unstacked(leaves[path], name):
            found[f"{PREFIX}{torch_path}{inner}.bias"] = part
    heads = set()
    for module in sorted({path.rpartition("/")[0] for path in trained - biases}):
        _require_whole(module, trained, leaves)
        torch_path = names_of(module)
        if "{}" in torch_path:
            raise PeftError(
                f"{module} is stacked and trains whole; PEFT's modules_to_save is written for single modules only."
            )
        heads.add(names.saved_name(torch_path, every))
        for path in [path for path in leaves if path.rpartition("/")[0] == module]:
            leaf = path.rpartition("/")[2]
            name = tensors.parameter_name(layout.get(module), leaf)
            if name is None:
                raise PeftError(
                    f"{path} {leaves[path].shape} is of a layer that has no counterpart in torch here; it cannot be saved."
                )
            found[f"{PREFIX}{torch_path}.{name}"] = tensors.parameter_to_torch(layout.get(module), leaf, leaves[path])
    return sorted(heads), bias, found


def _biases(trained: set[str], leaves: Mapping[str, Any]) -> tuple[str, set[str]]:
    """PEFT's word for the biases that train, and which: "all", "lora_only" (those of adapted layers) or "none"."""
    whole = {path.rpartition("/")[0] for path in trained if path.rpartition("/")[2] != "bias"}  # modules_to_save
    biases = {path for path in leaves if path.rpartition("/")[2] == "bias"}
    every = {path for path in biases if path.rpartition("/")[0] not in whole}
    adapted = {path for path in every if owner(path) in owners(leaves)}
    if every and every <= trained:
        return "all", every
    return ("lora_only", adapted) if adapted and adapted <= trained else ("none", set())


def _unstacked(leaf: Any, torch_path: str):
    """(torch path, part) for each layer of a stack; the leaf itself where there is none."""
    array = np.asarray(leaf, np.float32)
    for index, path in names.spelt(torch_path, array.shape):
        yield path, array[index].reshape(-1)


def _require_whole(module: str, trained: set[str], leaves: Mapping[str, Any]) -> None:
    own = [path for path in leaves if path.rpartition("/")[0] == module]
    adapted = [path for path in own if is_adapter_leaf(path)]
    if adapted:
        raise PeftError(f"{module} has an adapter and trains itself; PEFT's format has one or the other.")
    frozen = [path for path in own if path not in trained]
    if frozen:
        raise PeftError(
            f"{frozen[0]} does not train and the rest of {module} does; PEFT saves whole modules: train it all."
        )
