"""BERT in Hugging Face's folder layout: config.json and model.safetensors, read and written without torch.

`torch_names` says how a tensor's name follows from the parameter's path.
"""

import dataclasses
import functools
import os
import re
import types
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from lora_jax.errors import ModelError
from lora_jax.models import config_file, torch_names, weight_files
from lora_jax.models.bert import BertConfig, BertForMaskedLM, BertForSequenceClassification
from lora_jax.tree import flat, nested

NAMES = torch_names.Names(embeddings=".*_embeddings", norms="LayerNorm")
ARCHITECTURES = {"cls": "BertForMaskedLM", "classifier": "BertForSequenceClassification"}  # by their heads
LAYER = r"bert\.encoder\.layer\.(\d+)\."
BUFFERS = re.compile(r"(.*\.)?(position_ids|token_type_ids)")
EMBEDDING, DECODER = "bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"
BIAS, DECODER_BIAS = "cls.predictions.bias", "cls.predictions.decoder.bias"  # two names of one tensor
FIELDS = {
    **{field.name: field.type for field in dataclasses.fields(BertConfig)},
    "position_embedding_type": str | None,
    "is_decoder": bool | None,
}


@dataclasses.dataclass(frozen=True, eq=False)
class BertFolder:
    """What a folder holds: `params` has "bert" and, where the file has them, the heads "classifier" and "cls"."""

    path: epath.Path
    config: BertConfig
    params: dict[str, Any]  # float32
    ignored: tuple[str, ...]  # tensors of the file that no model here has


def read(path: str | os.PathLike) -> BertFolder:
    """Reads config.json and the weights.

    Raises:
      ModelError: for a folder without them, of another architecture, or with tensors that do not fit the config.

    >>> import tempfile
    >>> config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    >>> params = BertForSequenceClassification(config).init(jax.random.key(0), jnp.ones((1, 1), jnp.int32))["params"]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(folder, config, params)
    ...     found = read(folder)
    >>> found.config == config, sorted(found.params)
    (True, ['bert', 'classifier'])
    """
    folder = epath.Path(path)
    config = read_config(folder)
    tensors = _renamed(weight_files.read(folder))
    if {DECODER, EMBEDDING} <= tensors.keys() and not np.array_equal(tensors[DECODER], tensors[EMBEDDING]):
        raise ModelError(f"{folder}: {DECODER} is not the embedding matrix; only tied ones are supported.")
    paths = {_path(name): name for name in tensors}
    torch_names.require_layers(folder / config_file.NAME, config.num_hidden_layers, tensors, LAYER)
    shapes = {path: torch_names.turned(path, tensors[name].shape) for path, name in paths.items()}
    expected = _shapes(config, _labels(shapes))
    kept = {path: name for path, name in paths.items() if path in expected or path.startswith("bert/")}
    problems = _problems(expected, {path: shapes[path] for path in kept})
    problems += torch_names.odd_values({name: tensors[name] for name in kept.values()})
    torch_names.raise_for(f"{folder}: the weights do not fit config.json", problems)
    leaves = {path: torch_names.as_ours(path, tensors[name]) for path, name in kept.items()}
    return BertFolder(folder, config, nested(leaves), tuple(sorted(tensors.keys() - kept.values())))


def read_config(folder: epath.Path) -> BertConfig:
    """The BertConfig of `folder/config.json`; dropouts and the like default to BERT's."""
    file, values = config_file.read(folder)
    config_file.require_kind(file, values, "bert", FIELDS, assumed="bert")
    if values.get("position_embedding_type", "absolute") != "absolute" or values.get("is_decoder", False):
        raise ModelError(f"{file}: relative positions and decoders are not supported; only BERT's plain encoder is.")
    known = {field.name for field in dataclasses.fields(BertConfig)}
    required = {field.name for field in dataclasses.fields(BertConfig) if field.type is int} - {"type_vocab_size"}
    missing = sorted(required - values.keys())
    if missing:
        raise ModelError(f"{file}: {', '.join(missing)} missing; a BERT's config.json gives its sizes.")
    try:
        return BertConfig(**{name: values[name] for name in known & values.keys()})
    except ModelError as error:
        raise ModelError(f"{file}: {error}") from error


def _renamed(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors under the names that BERT has inside a model with a head; buffers keep theirs."""
    alone = not any(name.startswith("bert.") for name in tensors)  # a file of BertModel alone
    renamed = {}
    for name, tensor in tensors.items():
        new = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)  # as the first releases called them
        new = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", new)
        if alone and new.split(".")[0] not in ARCHITECTURES and not BUFFERS.fullmatch(new):
            new = f"bert.{new}"
        renamed[new] = tensor
    if BIAS not in renamed and DECODER_BIAS in renamed:
        renamed[BIAS] = renamed.pop(DECODER_BIAS)
    return renamed


def _path(name: str) -> str:
    """The parameter path of a tensor; a buffer keeps its name."""
    return name if BUFFERS.fullmatch(name) else NAMES.path(name)


def _problems(expected: Mapping[str, torch_names.Shape], found: Mapping[str, torch_names.Shape]) -> list[str]:
    """Every leaf of the encoder must be there, none beside, and all must fit; the pooler and heads may be absent, each as a whole."""
    return torch_names.problems(expected, found, optional=("bert/pooler/", *(f"{head}/" for head in ARCHITECTURES)))


def _labels(shapes: Mapping[str, torch_names.Shape]) -> int:
    """How many labels a classifier has; 1 where there is none."""
    kernel = shapes.get("classifier/kernel", ())
    return kernel[-1] if kernel else 1


@functools.lru_cache(maxsize=8)
def _shapes(config: BertConfig, labels: int) -> Mapping[str, torch_names.Shape]:
    """Every leaf that can be there: encoder, pooler and both heads."""
    models = (BertForMaskedLM(config), BertForSequenceClassification(config, labels))
    ids = jnp.ones((1, 1), jnp.int32)
    trees = [jax.eval_shape(model.init, jax.random.key(0), ids)["params"] for model in models]
    return types.MappingProxyType({path: leaf.shape for tree in trees for path, leaf in flat(tree).items()})


def initialised(model: nn.Module, key: jax.Array, loaded: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Parameters for `model`: those of `loaded`, and fresh ones where it has none; and the paths of the fresh ones.

    Args:
      model: a BertForSequenceClassification or BertForMaskedLM.
      loaded: `BertFolder.params`; parts that the model lacks are left out.

    Raises:
      ModelError: for a head of another number of labels, or an encoder of another size.
    """

    def init(key):
        return flat(model.init(key, jnp.ones((1, 1), jnp.int32))["params"])

    shapes = jax.eval_shape(init, key)
    given = {path: leaf for path, leaf in flat(loaded).items() if path in shapes}
    for path, leaf in given.items():
        if leaf.shape != shapes[path].shape:
            advice = "give the model the folder's config."
            if not path.startswith("bert/"):
                advice = f"leave {path.split('/')[0]!r} out of `loaded` to start a new head."
            raise ModelError(
                f"{path} has shape {leaf.shape} in the files, and {shapes[path].shape} in the model; {advice}"
            )
    new = sorted(shapes.keys() - given.keys())
    # Under jit what is not asked for is dead code and costs nothing.
    fresh = jax.jit(lambda key: {path: leaf for path, leaf in init(key).items() if path in new})(key) if new else {}
    return nested({**given, **fresh}), new


def write(
    path: str | os.PathLike,
    config: BertConfig,
    params: Mapping[str, Any],
    *,
    dtype: Any = jnp.float32,
    labels: Sequence[str] | None = None,
    beside: Mapping[str, bytes] | None = None,
) -> None:
    """Writes config.json and model.safetensors, which `transformers` and `read` load.

    Args:
      params: as in `BertFolder.params`; no leaf beside a BERT's own (adapters: `lora_jax.merge` folds them in).
      dtype: of the tensors in the file, e.g. jnp.bfloat16.
      labels: the words of the classifier's labels, in order; by default LABEL_0, LABEL_1 ...
      beside: other files that belong to the model, as its tokenizer's, by name; all are written together, or none.

    Raises:
      ModelError: for parameters that are not those of a BERT of this config, or a folder that cannot be written.
    """
    leaves = flat(params)
    shapes = {leaf: tuple(value.shape) for leaf, value in leaves.items()}
    torch_names.raise_for("the parameters do not fit the config", _problems(_shapes(config, _labels(shapes)), shapes))
    folder = epath.Path(path)
    tensors = {torch_names.name(leaf): torch_names.as_theirs(leaf, value, dtype) for leaf, value in leaves.items()}
    torch_names.raise_for(f"the parameters cannot be written as {jnp.dtype(dtype)}", torch_names.odd_values(tensors))
    about = {"model_type": "bert", **dataclasses.asdict(config), "pad_token_id": 0}
    about["architectures"] = [next((name for head, name in ARCHITECTURES.items() if head in params), "BertModel")]
    if "classifier/kernel" in shapes:
        about |= _words(_labels(shapes), labels)
    weight_files.write(folder, tensors, about, beside or {})


def _words(count: int, labels: Sequence[str] | None) -> dict[str, Any]:
    words = [f"LABEL_{i}" for i in range(count)] if labels is None else list(labels)
    if len(words) != count or len(set(words)) < count:
        raise ModelError(f"labels are {words}; the classifier has {count}, and each has a word of its own.")
    return {"id2label": dict(enumerate(words)), "label2id": {word: i for i, word in enumerate(words)}}
