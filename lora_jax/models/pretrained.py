"""A pretrained model in one line: from a Hugging Face folder, a name on the hub, or a .gguf file."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from etils import epath

from lora_jax.errors import ModelError, shown
from lora_jax.files import require_path
from lora_jax.models import (
    bert_config,
    bert_folder,
    bert_values,
    causal_config,
    causal_folder,
    config_file,
    gguf_file,
    tokenizer,
    weight_files,
)
from lora_jax.models.bert import BertForMaskedLM, BertForSequenceClassification, BertModel
from lora_jax.models.causal_lm import CausalLM
from lora_jax.models.causal_values import config_of
from lora_jax.models.tokenizer import Tokenizer

SUFFIX = ".gguf"
DTYPES = ("float32", "bfloat16", "float16")
OF_DECODERS = {"num_key_value_heads", "rms_norm_eps", "rope_theta", "rope_parameters"}  # no BERT's
ENCODERS = (BertModel, BertForSequenceClassification, BertForMaskedLM)


class Pretrained(NamedTuple):
    """A model, its parameters, and its tokenizer: None where the folder has none.

    >>> model, params, tokenizer = Pretrained(CausalLM(causal_config.CausalLMConfig()), {}, None)
    """

    model: nn.Module
    params: dict[str, Any]
    tokenizer: Tokenizer | None


def from_pretrained(
    source: str | os.PathLike,
    *,
    dtype: Any = jnp.float32,
    param_dtype: Any = None,
    remat: bool = False,
    num_labels: int | None = None,
    key: jax.Array | None = None,
) -> Pretrained:
    """Reads a decoder (Llama, SmolLM2, Mistral, Qwen 2 and 3, Gemma 1 to 3) or an encoder (BERT, RoBERTa, DistilBERT).

    Of an encoder, the model is the one that config.json names: a classifier, with the folder's labels, a masked LM, or the encoder alone.

    Args:
      source: a folder with config.json and safetensors, as `save_pretrained` writes it; a name on the Hugging Face hub (owner/model), which
        is fetched or found in the hub's cache; or a decoder's .gguf file.
      dtype: what is computed in, float32 or bfloat16.
      param_dtype: of the parameters. By default they stay as they are stored (bfloat16 stays bfloat16); those of a .gguf become float32.
      remat: of decoders, whether the backward pass computes each layer again: less memory, more time.
      num_labels: of encoders, makes a classifier with a new head of so many labels; `key` draws it.

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
    _require_floating("from_pretrained", "dtype", dtype)
    if param_dtype is not None:
        _require_floating("from_pretrained", "param_dtype", param_dtype)
    if str(source).lower().endswith(SUFFIX):
        _require_none(num_labels, str(source))
        return _of_gguf(source, dtype, param_dtype, remat)
    folder = weight_files.locate(source)
    file, values = config_file.read(folder)
    kind = _family(file, values)
    if kind in bert_config.FAMILIES:
        if remat:
            raise ModelError(f"{file}: remat is {shown(remat)}, and an encoder computes no layer again; leave it out.")
        return _encoder(folder, values, dtype, param_dtype, num_labels, key)
    if kind not in causal_config.FAMILIES:
        raise ModelError(
            f"{file}: the architecture is {kind!r}; there is code for decoders ({', '.join(causal_config.FAMILIES)}) and encoders "
            f"({', '.join(bert_config.FAMILIES)})."
        )
    _require_none(num_labels, str(file))
    config, words = config_of(file, values), tokenizer.read(folder)
    words = _fitting(words, config.vocab_size, values, str(folder))
    params = causal_folder.params_of(folder, config, weight_files.read(folder), param_dtype=param_dtype)
    return Pretrained(CausalLM(config, dtype, remat), params, words)


def _family(file: epath.Path, values: Mapping[str, Any]) -> str:
    """The model_type; BERT where none is said and nothing tells of another, for BERT's first releases do not say."""
    names = values.get("architectures") or ()
    is_bert = all(str(name).startswith("Bert") for name in names) and not values.keys() & OF_DECODERS
    if values.get("model_type") is None and not is_bert:
        raise ModelError(f"{file}: model_type is missing; write the family's, as {', '.join(causal_config.FAMILIES)}.")
    return values.get("model_type") or "bert"


def _encoder(folder: epath.Path, values: dict[str, Any], dtype, param_dtype, num_labels, key) -> Pretrained:
    config, words = bert_values.config(folder, values), tokenizer.read(folder)
    words = _fitting(words, config.vocab_size, values, str(folder))
    found = bert_folder.built(folder, values, weight_files.read(folder), param_dtype)
    return Pretrained(*bert_folder.model_of(found, dtype=dtype, num_labels=num_labels, key=key), words)


def _of_gguf(source: str | os.PathLike, dtype: Any, param_dtype: Any, remat: bool) -> Pretrained:
    found = gguf_file.read(source, param_dtype)
    config = config_of(source, found.values)
    words = _fitting(found.tokenizer, config.vocab_size, found.values, str(source))
    params = causal_folder.params_of(source, config, found.tensors)
    return Pretrained(CausalLM(config, dtype, remat), params, words)


def _fitting(words: Tokenizer | None, vocab_size: int, values: Mapping[str, Any], where: str) -> Tokenizer | None:
    """The tokenizer, which gives no id that the model lacks. Raises ModelError for one of another vocabulary."""
    if words is None:
        return None
    tokenizer.require_vocabulary(words, vocab_size, values, where)
    return dataclasses.replace(words, limit=vocab_size) if words.vocab_size > vocab_size else words


def _require_floating(caller: str, name: str, value: Any) -> None:
    try:
        is_known = value is not None and str(jnp.dtype(value)) in DTYPES
    except TypeError:
        is_known = False
    if not is_known:
        raise ModelError(f"{caller}: {name} is {value!r}; it must be {' or '.join(DTYPES)}.")


def _require_none(num_labels: int | None, where: str) -> None:
    if num_labels is not None:
        raise ModelError(f"{where}: num_labels is {num_labels!r}, and a decoder has no classifier; leave it out.")


def _require_no_other_words(folder: str | os.PathLike, words: Tokenizer) -> None:
    others = [name for name in tokenizer.FILES if name not in words.files and (epath.Path(folder) / name).is_file()]
    if others:
        raise ModelError(
            f"save_pretrained: {folder} has {', '.join(others)} of another tokenizer, which would be read with this one's files; name another folder."
        )


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
      ModelError: for a model that is none of ours, parameters of another one, a dtype that is none, a folder that cannot be written, or one
        with files of another tokenizer, which would be read with those of `words`.

    >>> import jax, os, tempfile
    >>> small = CausalLM(causal_config.CausalLMConfig(11, 8, 16, 2, 2, 1, 16))
    >>> params = small.init(jax.random.key(0), *small.example())["params"]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_pretrained(folder, small, params)
    ...     sorted(os.listdir(folder))
    ['config.json', 'model.safetensors']
    """
    folder = require_path(folder, ModelError)
    if not str(folder):
        raise ModelError("save_pretrained: the folder's name is empty; write '.' for the current folder.")
    if words is not None and not isinstance(words, Tokenizer):
        raise ModelError(
            f"save_pretrained: words are {shown(words)}; expected the Tokenizer that from_pretrained gives, or None."
        )
    if words is not None:
        _require_no_other_words(folder, words)
    if dtype is not None:
        _require_floating("save_pretrained", "dtype", dtype)
    about = {} if words is None else {f"{name}_token_id": getattr(words, name) for name in ("bos", "eos", "pad")}
    about = {name: id for name, id in about.items() if id is not None}
    beside = {} if words is None else words.files
    if isinstance(model, CausalLM):
        causal_folder.write(folder, model.config, params, dtype=dtype, beside=beside, about=about)
    elif isinstance(model, ENCODERS):
        whole = {"bert": params} if isinstance(model, BertModel) else params
        labels = model.labels if isinstance(model, BertForSequenceClassification) else None
        bert_folder.write(folder, model.config, whole, dtype=dtype, labels=labels, beside=beside, about=about)
    else:
        raise ModelError(
            f"save_pretrained: a {type(model).__name__} cannot be written; only the models that from_pretrained gives."
        )
