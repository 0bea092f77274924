"""BERT, RoBERTa and DistilBERT in Hugging Face's folder layout: config.json and model.safetensors, read and written without torch.

`bert_names` says what torch calls a parameter; `bert_values` what config.json says.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from lora_jax.errors import ModelError, shown
from lora_jax.models import bert_names, bert_tensors, bert_values, config_file, torch_names, weight_files
from lora_jax.models.bert import BertConfig, BertForMaskedLM, BertForSequenceClassification, BertModel
from lora_jax.tree import flat, nested


@dataclasses.dataclass(frozen=True, eq=False)
class BertFolder:
    """What a folder holds: `params` has "bert" and, where the file has them, the heads "classifier" and "cls"."""

    path: epath.Path
    config: BertConfig
    params: dict[str, Any]
    ignored: tuple[str, ...]  # tensors of the file that no model here has
    values: Mapping[str, Any]  # all that config.json says

    @property
    def labels(self) -> tuple[str, ...] | None:
        """The words of the classifier's labels; None where there is no classifier, or config.json does not say."""
        return bert_values.labels(self.path, self.values) if "classifier" in self.params else None


def read(path: str | os.PathLike, *, param_dtype: Any = None) -> BertFolder:
    """Reads config.json and the weights.

    Args:
      param_dtype: of the parameters; None is as the file has them.

    Raises:
      ModelError: for a folder without them, of another architecture, or with tensors that do not fit the config.

    >>> import tempfile
    >>> config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    >>> params = BertForSequenceClassification(config).init(jax.random.key(0), jnp.ones((1, 1), jnp.int32))["params"]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(folder, config, params)
    ...     found = read(folder)
    >>> found.config == config, sorted(found.params), found.labels
    (True, ['bert', 'classifier'], ('LABEL_0', 'LABEL_1'))
    """
    folder = epath.Path(path)
    _, values = config_file.read(folder)
    bert_values.config(folder, values)  # before the weights are
    return built(folder, values, weight_files.read(folder), param_dtype)


def built(
    where: str | os.PathLike, values: dict[str, Any], tensors: Mapping[str, np.ndarray], param_dtype: Any = None
) -> BertFolder:
    """The folder `where` of what its config.json says and its tensors, by their names there.

    Raises:
      ModelError: for another architecture, or tensors that do not fit the config.
    """
    where = epath.Path(where)
    config = bert_values.config(where, values)
    tensors = bert_tensors.without_twins(where, config, bert_tensors.renamed(tensors, config.family))
    layers, count = config.num_hidden_layers, bert_tensors.label_count(config, tensors)
    torch_names.require_layers(where / config_file.NAME, layers, tensors, bert_tensors.layer_pattern(config))
    expected = bert_tensors.shapes(config, count)
    if bert_values.is_of_other_head(values):
        expected = {path: shape for path, shape in expected.items() if not path.startswith(bert_tensors.HEADS)}
    names = {path: bert_names.tensor(config.model_type, path) for path in expected}
    kept = _kept(tensors, set(names.values()), f"{config.family.prefix}.")
    problems = bert_tensors.problems(config, expected, {name: tuple(t.shape) for name, t in kept.items()})
    problems += torch_names.odd_values(kept)
    torch_names.raise_for(f"{where}: the weights do not fit config.json", problems)
    leaves = {path: torch_names.as_ours(path, kept[name], param_dtype) for path, name in names.items() if name in kept}
    if bert_tensors.last_kernel(config) in leaves:
        bert_values.require_labels(where, values, count)
    return BertFolder(where, config, nested(leaves), tuple(sorted(tensors.keys() - kept.keys())), values)


def _kept(tensors: Mapping[str, np.ndarray], names: set[str], prefix: str) -> dict[str, np.ndarray]:
    """Those of these names, and what else there is of the encoder."""

    def is_ours(name: str) -> bool:
        return name in names or (name.startswith(prefix) and not bert_tensors.is_buffer(name))

    return {name: tensor for name, tensor in tensors.items() if is_ours(name)}


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


def model_of(
    folder: BertFolder, *, dtype: Any = jnp.float32, num_labels: int | None = None, key: jax.Array | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """(model, its parameters): what config.json's "architectures" names, a classifier, a masked LM, or else the encoder alone.

    Where config.json does not say, the head that is there decides. Nothing is drawn anew unless `num_labels` is given.

    Args:
      dtype: what is computed in.
      num_labels: for a classifier with a new head of so many labels, whatever head the folder has (and a new pooler, where a BERT's has none).
      key: draws the new head.

    Raises:
      ModelError: where the head that config.json names is not among the weights; for num_labels below 1 or without a key.
    """
    config, params = folder.config, folder.params
    if num_labels is not None:
        is_count = isinstance(num_labels, (int, np.integer)) and not isinstance(num_labels, bool) and num_labels >= 1
        if not is_count or not isinstance(key, (jax.Array, np.ndarray)):
            drawn = "a key of JAX" if isinstance(key, (jax.Array, np.ndarray)) else shown(key)
            raise ModelError(
                f"num_labels is {num_labels!r}, key is {drawn}; a new head takes 1 label or more and a key, as jax.random.key(0)."
            )
        model = BertForSequenceClassification(config, int(num_labels), dtype)
        return model, initialised(model, key, {"bert": params["bert"]})[0]
    head = bert_values.head(folder.values, params)
    if head is None:
        has_pooler = "pooler" in params["bert"]
        return BertModel(config, dtype, has_pooler=has_pooler), params["bert"]
    model = _with_head(folder, head, dtype)
    wanted = jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, 1), jnp.int32))["params"]
    leaves = flat(params)
    missing = sorted(flat(wanted).keys() - leaves.keys())
    if missing:
        name = bert_names.tensor(config.model_type, missing[0])
        raise ModelError(
            f"{folder.path}: config.json names a model with a head, and the weights have no {name}; num_labels= starts a new classifier."
        )
    return model, nested({path: leaves[path] for path in flat(wanted)})


def _with_head(folder: BertFolder, head: str, dtype: Any) -> nn.Module:
    if head == "cls":
        return BertForMaskedLM(folder.config, dtype, has_pooler="pooler" in folder.params["bert"])
    kernel = flat(folder.params).get(bert_tensors.last_kernel(folder.config))
    count = kernel.shape[-1] if kernel is not None else 1
    return BertForSequenceClassification(folder.config, count, dtype, folder.labels)


def write(
    path: str | os.PathLike,
    config: BertConfig,
    params: Mapping[str, Any],
    *,
    dtype: Any = None,
    labels: Sequence[str] | None = None,
    beside: Mapping[str, bytes] | None = None,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Writes config.json and model.safetensors, which `transformers` and `read` load.

    Args:
      params: as in `BertFolder.params`; no leaf beside the family's own (adapters: `lora_jax.merge` folds them in).
      dtype: of the tensors in the file, e.g. jnp.bfloat16; by default the widest of the parameters'.
      labels: the words of the classifier's labels, in order; by default those of `about`, or else LABEL_0, LABEL_1 ...
      beside: other files that belong to the model, as its tokenizer's, by name; all are written together, or none.
      about: what config.json says beside, as bos_token_id; `BertFolder.values` keeps what the folder said that the model comes from.

    Raises:
      ModelError: for parameters that are not those of this config, or a folder that cannot be written.
    """
    leaves = flat(params)
    names = {leaf: bert_names.tensor(config.model_type, leaf) for leaf in leaves}
    shapes = {names[leaf]: torch_names.turned(leaf, value.shape) for leaf, value in leaves.items()}
    kernel = leaves.get(bert_tensors.last_kernel(config))
    count = kernel.shape[-1] if kernel is not None and kernel.ndim else 1
    problems = bert_tensors.problems(config, bert_tensors.shapes(config, count), shapes)
    torch_names.raise_for("the parameters do not fit the config", problems)
    tensors, _ = torch_names.written(leaves, names, dtype)
    said = bert_values.written(config, params, about or {}, None if kernel is None else count, labels)
    weight_files.write(epath.Path(path), tensors, said, beside or {})
