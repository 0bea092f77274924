"""Llama in Hugging Face's folder layout: config.json and model.safetensors, read and written without torch.

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
from lora_jax.tree import flat, nested

NAMES = torch_names.Names(embeddings="embed_tokens", norms=".*norm")
LAYER = re.compile(r"model/layers/(\d+)/(.*)")
HEAD = "lm_head/kernel"
BUFFERS = re.compile(r".*rotary_emb\.inv_freq")
# What a config.json may say that this decoder does not do -> the one value that is plain Llama.
PLAIN = {"attention_bias": False, "mlp_bias": False, "hidden_act": "silu", "rope_scaling": None}
FIELDS = {
    **{field.name: field.type for field in dataclasses.fields(CausalLMConfig)},
    "num_key_value_heads": int | None,
    "rope_parameters": dict | None,
    "rope_scaling": dict | None,
    "head_dim": int | None,
}


@dataclasses.dataclass(frozen=True, eq=False)
class CausalFolder:
    """What a folder holds; `params` float32 as CausalLM has them."""

    path: epath.Path
    config: CausalLMConfig
    params: dict[str, Any]


def torch_module(path: str) -> str:
    """What a module of CausalLM is called in torch; "{}" stands for the number of a layer.

    >>> torch_module("model/layers/self_attn/q_proj"), torch_module("lm_head")
    ('model.layers.{}.self_attn.q_proj', 'lm_head')
    """
    return path.replace("/", ".").replace("model.layers.", "model.layers.{}.")


def read(path: str | os.PathLike) -> CausalFolder:
    """Reads config.json and the weights.

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
    config = read_config(folder)
    found = {name: tensor for name, tensor in weight_files.read(folder).items() if not BUFFERS.fullmatch(name)}
    torch_names.require_layers(folder / config_file.NAME, config.num_hidden_layers, found, r"model\.layers\.(\d+)\.")
    tensors = {NAMES.path(name): tensor for name, tensor in found.items()}
    if config.tie_word_embeddings:
        _drop_tied_head(folder, tensors)
    expected = _unstacked_shapes(config)
    shapes = {path: torch_names.turned(path, tensor.shape) for path, tensor in tensors.items()}
    problems = torch_names.problems(expected, shapes) + torch_names.odd_values(found)
    torch_names.raise_for(f"{folder}: the weights do not fit config.json", problems)
    leaves = {path: torch_names.as_ours(path, tensor) for path, tensor in tensors.items()}
    return CausalFolder(folder, config, nested(_stacked(leaves, config.num_hidden_layers)))


def _drop_tied_head(folder: epath.Path, tensors: dict[str, np.ndarray]) -> None:
    head = tensors.pop(HEAD, None)
    if head is not None and not np.array_equal(head, tensors.get("model/embed_tokens/embedding")):
        raise ModelError(f"{folder}: config.json ties lm_head to the embedding, and the weights have another one.")


def read_config(folder: epath.Path) -> CausalLMConfig:
    """The CausalLMConfig of `folder/config.json`."""
    file, values = config_file.read(folder, "llama", FIELDS)
    return _from_values(file, values)


def _from_values(file: epath.Path, values: dict[str, Any]) -> CausalLMConfig:
    rope = values.get("rope_parameters") or {}  # where newer releases keep what concerns positions
    values = {**values, **{name: rope[name] for name in ("rope_theta",) if name in rope}}
    odd = [name for name, plain in PLAIN.items() if values.get(name, plain) != plain]
    odd += ["rope_parameters.rope_type"] if rope.get("rope_type", "default") != "default" else []
    if odd:
        raise ModelError(f"{file}: {', '.join(odd)} is not what a plain Llama has, which is all that is supported.")
    known = {field.name for field in dataclasses.fields(CausalLMConfig)}
    required = {field.name for field in dataclasses.fields(CausalLMConfig) if field.type is int}
    values.setdefault("num_key_value_heads", values.get("num_attention_heads"))
    missing = sorted(name for name in required if values.get(name) is None)
    if missing:
        raise ModelError(f"{file}: {', '.join(missing)} missing; a Llama's config.json gives its sizes.")
    defaults = {"tie_word_embeddings": False, "rms_norm_eps": 1e-6}  # transformers', where the file is silent
    try:
        config = CausalLMConfig(**{**defaults, **{name: values[name] for name in known & values.keys()}})
    except ModelError as error:
        raise ModelError(f"{file}: {error}") from error
    if values.get("head_dim") not in (None, config.head_size):
        raise ModelError(
            f"{file}: head_dim is {values['head_dim']}; only hidden_size / num_attention_heads is supported."
        )
    return config


def write(
    path: str | os.PathLike,
    config: CausalLMConfig,
    params: Mapping[str, Any],
    *,
    dtype: Any = jnp.float32,
    beside: Mapping[str, bytes] | None = None,
) -> None:
    """Writes config.json and model.safetensors, which `transformers` and `read` load.

    Args:
      params: a CausalLM's; no leaf beside its own (adapters: `lora_jax.merge` folds them in).
      dtype: of the tensors in the file, e.g. jnp.bfloat16.
      beside: other files that belong to the model, as its tokenizer's, by name; all are written together, or none.

    Raises:
      ModelError: for parameters that are not those of this config, or a folder that cannot be written.
    """
    leaves = flat(params)
    shapes = {path: tuple(leaf.shape) for path, leaf in leaves.items()}
    torch_names.raise_for("the parameters do not fit the config", torch_names.problems(_shapes(config), shapes))
    folder = epath.Path(path)
    alone = _unstacked(leaves)
    tensors = {torch_names.name(p): torch_names.as_theirs(p, leaf, dtype) for p, leaf in alone.items()}
    torch_names.raise_for(f"the parameters cannot be written as {jnp.dtype(dtype)}", torch_names.odd_values(tensors))
    about = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], **dataclasses.asdict(config), **PLAIN}
    weight_files.write(folder, tensors, about, beside or {})


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


def _stacked(leaves: Mapping[str, jax.Array], layers: int) -> dict[str, jax.Array]:
    """The inverse of `_unstacked`."""
    found = {path: leaf for path, leaf in leaves.items() if not LAYER.fullmatch(path)}
    for rest in {LAYER.fullmatch(path)[2] for path in leaves if LAYER.fullmatch(path)}:
        found[f"model/layers/{rest}"] = jnp.stack([leaves[f"model/layers/{i}/{rest}"] for i in range(layers)])
    return found
