"""The tensors of a BERT, RoBERTa or DistilBERT by torch's names: which there can be, and what is wrong with those that there are."""

import functools
import re
import types
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lora_jax.errors import ModelError
from lora_jax.models import bert_names, torch_names
from lora_jax.models.bert import BertConfig, BertForMaskedLM, BertForSequenceClassification, BertModel
from lora_jax.models.bert_config import Family
from lora_jax.tree import flat

POOLER, HEADS = "bert/pooler/", ("classifier/", "cls/")  # may be absent, each as a whole
TABLE = "bert/embeddings/word_embeddings/embedding"
_HEAD_MODULES = ("classifier", "classifier/dense", "cls/predictions", "cls/predictions/transform/dense")
_HEAD_MODULES += ("cls/predictions/transform/LayerNorm",)
_BUFFERS = re.compile(r"(.*\.)?(position_ids|token_type_ids)")


def is_buffer(name: str) -> bool:
    """Whether a tensor is no parameter."""
    return _BUFFERS.fullmatch(name) is not None


def last_kernel(config: BertConfig) -> str:
    """The path of the kernel that makes a classifier's logits."""
    return "classifier/kernel" if config.family.pools_first else "classifier/out_proj/kernel"


def label_count(config: BertConfig, tensors: Mapping[str, Any]) -> int:
    """How many labels a classifier has among these tensors; 1 where there is none."""
    kernel = tensors.get(bert_names.tensor(config.model_type, last_kernel(config)))
    return kernel.shape[0] if kernel is not None and kernel.ndim else 1


def layer_pattern(config: BertConfig) -> str:
    """What the names of a layer's tensors begin with; the group is its number."""
    return re.escape(bert_names.module(config.model_type, "bert/encoder/layer")) + r"\.(\d+)\."


def renamed(tensors: Mapping[str, np.ndarray], family: Family) -> dict[str, np.ndarray]:
    """The tensors under the names that the encoder has inside a model with a head; buffers keep theirs."""
    alone = not any(name.startswith(f"{family.prefix}.") for name in tensors)  # a file of the encoder alone
    heads = {bert_names.module(family.prefix, path).split(".")[0] for path in _HEAD_MODULES}
    found = {}
    for name, tensor in tensors.items():
        new = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)  # as the first releases called them
        new = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", new)
        if alone and new.split(".")[0] not in heads and not is_buffer(new):
            new = f"{family.prefix}.{new}"
        found[new] = tensor
    return found


def without_twins(where: Any, config: BertConfig, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors, with the bias of the masked LM under the first of its two names.

    Raises:
      ModelError: where the output layer is not the embedding, or its two biases are two.
    """
    found, decoder = dict(tensors), bert_names.decoder(config.model_type)
    table, bias = (bert_names.tensor(config.model_type, path) for path in (TABLE, "cls/predictions/bias"))
    if bias not in found and f"{decoder}.bias" in found:
        found[bias] = found.pop(f"{decoder}.bias")
    for name, twin, why in (
        (f"{decoder}.weight", table, "the embedding matrix; only tied ones are supported"),
        (f"{decoder}.bias", bias, f"{bias}, which is the same parameter"),
    ):
        if {name, twin} <= found.keys() and not np.array_equal(found[name], found[twin]):
            raise ModelError(f"{where}: {name} is not {why}.")
    return found


def problems(
    config: BertConfig, expected: Mapping[str, torch_names.Shape], found: Mapping[str, torch_names.Shape]
) -> list[str]:
    """One phrase for each tensor that does not fit.

    Args:
      expected: path -> shape, as here. Every leaf of the encoder must be there; pooler and heads may be absent, each as a whole.
      found: torch's name -> shape, as there.
    """
    of = {path: bert_names.tensor(config.model_type, path) for path in expected}
    absent = tuple(part for part in (POOLER, *HEADS) if not any(of[p] in found for p in of if p.startswith(part)))
    wanted = {path: shape for path, shape in expected.items() if not path.startswith(absent)}
    there = {of[path]: torch_names.turned(path, shape) for path, shape in wanted.items()}
    return torch_names.problems(there, found)


@functools.lru_cache(maxsize=8)
def shapes(config: BertConfig, labels: int) -> Mapping[str, torch_names.Shape]:
    """path -> shape of every leaf that can be there: encoder, pooler and both heads."""
    ids = jnp.ones((1, 1), jnp.int32)

    def of(model):
        return flat(jax.eval_shape(model.init, jax.random.key(0), ids)["params"])

    alone = {f"bert/{path}": leaf for path, leaf in of(BertModel(config)).items()}
    leaves = alone | of(BertForMaskedLM(config)) | of(BertForSequenceClassification(config, labels))
    return types.MappingProxyType({path: leaf.shape for path, leaf in leaves.items()})
