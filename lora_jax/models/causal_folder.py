"""Decoders in Hugging Face's folder layout: config.json and safetensors, read and written without torch.

Here the layers are one module, stacked along axis 0; there each has its number in its name.
"""

import dataclasses
import os
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from lora_jax.errors import ModelError
from lora_jax.models import config_file, torch_names, weight_files
from lora_jax.models.causal_lm import CausalLM, CausalLMConfig
from lora_jax.models.causal_values import config_of, values_of
from lora_jax.tree import flat, nested

NAMES = torch_names.Names(embeddings="embed_tokens", norms=".*norm")
LAYER = re.compile(r"model/layers/(\d+)/(.*)")
HEAD = "lm_head/kernel"
BUFFERS = re.compile(r".*rotary_emb\.inv_freq")


@dataclasses.dataclass(frozen=True, eq=False)
class CausalFolder:
    """What a folder holds; `params` as CausalLM has them."""

    path: epath.Path
    config: CausalLMConfig
    params: dict[str, Any]


def read(path: str | os.PathLike, *, param_dtype: Any = None) -> CausalFolder:
    """Reads config.json and the weights.

    Args:
      param_dtype: of the parameters; None keeps them as they are stored, bfloat16 too.

    Raises:
      ModelError: for a folder without them, of another architecture, or with tensors that do not fit the config.

    >>> import tempfile
    >>> from lora_jax.models.causal_lm import PRESETS
    >>> params = CausalLM(PRESETS["0.3M"]).init(jax.random.key(0), jnp.ones((1, 1), jnp.int32))["params"]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(folder, PRESETS["0.3M"], params)
    ...     found = read(folder)
    >>> found.config == PRESETS["0.3M"], sorted(found.params)
    (True, ['model'])
    """
    folder = epath.Path(path)
    file, values = config_file.read(folder)
    config = config_of(file, values)
    params = params_of(folder, config, weight_files.read(folder), param_dtype=param_dtype)
    return CausalFolder(folder, config, params)


def params_of(
    where: Any, config: CausalLMConfig, tensors: Mapping[str, np.ndarray], *, param_dtype: Any = None
) -> dict[str, Any]:
    """The parameters of a CausalLM from tensors by their names in torch.

    Raises:
      ModelError: for tensors that do not fit the config.
    """
    found = {name: tensor for name, tensor in tensors.items() if not BUFFERS.fullmatch(name)}
    torch_names.require_layers(where, config.num_hidden_layers, found, r"model\.layers\.(\d+)\.")
    by_path = {NAMES.path(name): tensor for name, tensor in found.items()}
    if config.tie_word_embeddings:
        _drop_tied_head(where, by_path)
    expected = _unstacked_shapes(config)
    shapes = {path: torch_names.turned(path, tensor.shape) for path, tensor in by_path.items()}
    problems = torch_names.problems(expected, shapes) + torch_names.odd_values(found)
    torch_names.raise_for(f"{where}: the weights do not fit config.json", problems)
    return nested(_stacked(by_path, config.num_hidden_layers, param_dtype))


def _drop_tied_head(where: Any, tensors: dict[str, np.ndarray]) -> None:
    head = tensors.pop(HEAD, None)
    if head is not None and not np.array_equal(head, tensors.get("model/embed_tokens/embedding")):
        raise ModelError(f"{where}: config.json ties lm_head to the embedding, and the weights have another one.")


def write(
    path: str | os.PathLike,
    config: CausalLMConfig,
    params: Mapping[str, Any],
    *,
    dtype: Any = None,
    beside: Mapping[str, bytes] | None = None,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Writes config.json and model.safetensors, which `transformers` and `read` load.

    Args:
      params: a CausalLM's; no leaf beside its own (adapters: `lora_jax.merge` folds them in).
      dtype: of the tensors in the file, e.g. jnp.bfloat16; by default the widest of the parameters'.
      about: what config.json says beside, as bos_token_id.
      beside: other files that belong to the model, as its tokenizer's, by name; all are written together, or none.

    Raises:
      ModelError: for parameters that are not those of this config, or a folder that cannot be written.
    """
    leaves = flat(params)
    shapes = {path: tuple(leaf.shape) for path, leaf in leaves.items()}
    torch_names.raise_for("the parameters do not fit the config", torch_names.problems(_shapes(config), shapes))
    alone = _unstacked(leaves)
    tensors, stored = torch_names.written(alone, {path: torch_names.name(path) for path in alone}, dtype)
    said = {**(about or {}), **values_of(config), "torch_dtype": stored}
    weight_files.write(epath.Path(path), tensors, said, beside or {})


def _shapes(config: CausalLMConfig) -> dict[str, tuple[int, ...]]:
    tree = jax.eval_shape(CausalLM(config).init, jax.random.key(0), jnp.ones((1, 1), jnp.int32))["params"]
    return {path: leaf.shape for path, leaf in flat(tree).items()}


def _unstacked_shapes(config: CausalLMConfig) -> dict[str, tuple[int, ...]]:
    """Of one layer each; nothing of these sizes is made."""
    found = {}
    for path, shape in _shapes(config).items():
        found |= dict.fromkeys(_layers(path, shape[0]), shape[1:]) if _is_stacked(path) else {path: shape}
    return found


def _is_stacked(path: str) -> bool:
    return path.startswith("model/layers/")


def _layers(path: str, count: int) -> list[str]:
    return [f"model/layers/{i}/{path.removeprefix('model/layers/')}" for i in range(count)]


def _unstacked(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """ "model/layers/x" [L, ...] as "model/layers/0/x", "model/layers/1/x" ..."""
    found = {}
    for path, leaf in leaves.items():
        found |= dict(zip(_layers(path, len(leaf)), leaf, strict=True)) if _is_stacked(path) else {path: leaf}
    return found


def _stacked(tensors: Mapping[str, np.ndarray], layers: int, dtype: Any) -> dict[str, jax.Array]:
    """The inverse of `_unstacked`, from torch's tensors by path."""
    found = {
        path: torch_names.as_ours(path, tensor, dtype) for path, tensor in tensors.items() if not LAYER.fullmatch(path)
    }
    for rest in {LAYER.fullmatch(path)[2] for path in tensors if LAYER.fullmatch(path)}:
        of_layers = [tensors[f"model/layers/{i}/{rest}"] for i in range(layers)]
        found[f"model/layers/{rest}"] = torch_names.stacked_as_ours(rest, of_layers, dtype)
    return found
