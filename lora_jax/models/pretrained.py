"""A pretrained model in one line: from a Hugging Face folder, a name on the hub, or a .gguf file."""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from etils import epath

from lora_jax.errors import ModelError
from lora_jax.files import require_path
from lora_jax.models import causal_folder, config_file, gguf_file, tokenizer, weight_files
from lora_jax.models.causal_config import FAMILIES, CausalLMConfig
from lora_jax.models.causal_lm import CausalLM
from lora_jax.models.causal_values import config_of
from lora_jax.models.tokenizer import Tokenizer

SUFFIX = ".gguf"


class Pretrained(NamedTuple):
    """A model, its parameters, and its tokenizer: None where the folder has none.

    >>> model, params, tokenizer = Pretrained(CausalLM(CausalLMConfig()), {}, None)
    """

    model: nn.Module
    params: dict[str, Any]
    tokenizer: Tokenizer | None


def from_pretrained(
    source: str | os.PathLike, *, dtype: Any = jnp.float32, param_dtype: Any = None, remat: bool = False
) -> Pretrained:
    """Reads a decoder (Llama, SmolLM2, Mistral, Qwen 2 and 3, Gemma 1 to 3).

    Args:
      source: a folder with config.json and safetensors, as `save_pretrained` writes it; a name on the Hugging Face hub (owner/model), which
        is fetched or found in the hub's cache; or a .gguf file.
      dtype: what is computed in, float32 or bfloat16.
      param_dtype: of the parameters. By default they stay as they are stored (bfloat16 stays bfloat16); those of a .gguf become float32.
      remat: whether the backward pass computes each layer again: less memory, more time.

    Raises:
      ModelError: for a source that is not there or not whole, of a family that there is no code for, or with a tokenizer of another
        vocabulary.

    >>> import jax, tempfile
    >>> from lora_jax.models.causal_lm import PRESETS
    >>> small = CausalLM(PRESETS["0.3M"])
    >>> params = small.init(jax.random.key(0), *small.example())["params"]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_pretrained(folder, small, params)
    ...     model, params, tokenizer = from_pretrained(folder, dtype=jnp.bfloat16)
    >>> model.config == PRESETS["0.3M"], tokenizer
    (True, None)
    """
    source = require_path(source, ModelError)
    if str(source).lower().endswith(SUFFIX):
        return _of_gguf(source, dtype, param_dtype, remat)
    folder = weight_files.locate(source)
    file, values = config_file.read(folder)
    config = config_of(file, values)
    words = tokenizer.read(folder)
    _require_words(words, config, values, str(folder))
    params = causal_folder.params_of(folder, config, weight_files.read(folder), param_dtype=param_dtype)
    return Pretrained(CausalLM(config, dtype, remat), params, words)


def _of_gguf(source: str | os.PathLike, dtype: Any, param_dtype: Any, remat: bool) -> Pretrained:
    found = gguf_file.read(source, param_dtype)
    config = config_of(source, found.values)
    _require_words(found.tokenizer, config, found.values, str(source))
    params = causal_folder.params_of(source, config, found.tensors)
    return Pretrained(CausalLM(config, dtype, remat), params, found.tokenizer)


def _require_words(words: Tokenizer | None, config: CausalLMConfig, values: Mapping[str, Any], where: str) -> None:
    if words is not None:
        tokenizer.require_vocabulary(words, config.vocab_size, values, where)


def save_pretrained(
    folder: str | os.PathLike,
    model: nn.Module,
    params: Mapping[str, Any],
    words: Tokenizer | None = None,
    *,
    dtype: Any = None,
) -> None:
    """Writes a folder that `transformers` and `from_pretrained` read: config.json, model.safetensors, the tokenizer's files.

    Args:
      params: the model's own leaves (adapters: `lora_jax.merge` folds them in).
      dtype: of the tensors in the file; by default the widest of the parameters'.

    Raises:
      ModelError: for a model that is none of ours, parameters of another one, or a folder that cannot be written.

    >>> import jax, os, tempfile
    >>> small = CausalLM(CausalLMConfig(11, 8, 16, 2, 2, 1, 16))
    >>> params = small.init(jax.random.key(0), *small.example())["params"]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_pretrained(folder, small, params)
    ...     sorted(os.listdir(folder))
    ['config.json', 'model.safetensors']
    """
    if not isinstance(model, CausalLM):
        raise ModelError(
            f"save_pretrained: {type(model).__name__} cannot be written; there is code for decoders ({', '.join(FAMILIES)})."
        )
    about = {} if words is None else {f"{name}_token_id": getattr(words, name) for name in ("bos", "eos", "pad")}
    about = {name: id for name, id in about.items() if id is not None}
    causal_folder.write(
        epath.Path(folder), model.config, params, dtype=dtype, beside={} if words is None else words.files, about=about
    )
