"""One fine-tuned BERT: its settings, and the classifier they make of a base. Letters: N sentences, C classes."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import tokenizers
from etils import epath

import lora_jax
from experiments.bert import base as bert_base
from experiments.bert import wordpiece
from experiments.bert.base import Base
from experiments.common import recording
from experiments.data import buckets as length_buckets
from experiments.data.buckets import Bucket
from experiments.data.sst2 import CLASSES, Texts
from experiments.sst2.classifier_settings import RATES as RATES
from experiments.sst2.classifier_settings import Settings
from experiments.sst2.settings import LENGTHS as STUDY_LENGTHS
from experiments.sst2.settings import TARGETS
from experiments.sst2.training import HEAD
from lora_jax import checkpoint, peft
from lora_jax.models import bert, bert_folder

TRAINED = {"LoRA": HEAD, "head only": HEAD, "full": ("*",), "LoRA all linear": HEAD}  # beside adapters
LENGTHS = (*STUDY_LENGTHS, 144, 288)
CHUNK = 64  # sentences that are asked at once


@dataclasses.dataclass(frozen=True, eq=False)
class Classifier:
    """A regime's model over a base: `params` has the base's encoder and a head that is not trained yet."""

    settings: Settings
    model: bert.BertForSequenceClassification
    params: dict[str, Any]
    tokenizer: tokenizers.Tokenizer
    classes: tuple[str, ...] = CLASSES  # the words of the labels 0, 1, ...
    is_merged: bool = False  # what was trained is in the weights, and no adapter beside them

    @classmethod
    def over(cls, base: Base, settings: Settings, classes: tuple[str, ...] = CLASSES) -> "Classifier":
        model = bert.BertForSequenceClassification(base.folder.config.with_dropout(settings.dropout), len(classes))
        loaded = {"bert": base.folder.params["bert"]}  # a classifier of its own
        params, _ = bert_folder.initialised(model, jax.random.key(0), loaded)
        return cls(settings, model, params, base.tokenizer, classes)

    @classmethod
    def merged(cls, path: epath.Path, settings: Settings, classes: tuple[str, ...]) -> "Classifier":
        """Of the folder that fine-tuning wrote, by itself. Raises ModelError, UserError for one that is damaged."""
        found = bert_base.read(path)
        model = bert.BertForSequenceClassification(found.config, len(classes))
        tokenizer = wordpiece.of_folder(path, found.config.vocab_size)
        return cls(settings, model, found.params, tokenizer, classes, is_merged=True)

    @functools.cached_property
    def adapted(self) -> nn.Module:
        """What is applied: the model, with adapters where the regime has some."""
        has_adapter = self.settings.has_adapter and not self.is_merged
        return lora_jax.LoRA(self.model, self.config) if has_adapter else self.model

    @property
    def config(self) -> lora_jax.LoRAConfig:
        s = self.settings
        return lora_jax.LoRAConfig(rank=s.rank, scaling="constant", alpha=s.scale, targets=TARGETS[s.regime])

    def encode(self, texts: Texts, what: str) -> list[Bucket]:
        """In length buckets; a printed line says how many sentences were cut."""
        longest = self.settings.max_tokens
        lengths = (*(length for length in LENGTHS if length < longest), longest)
        encoded = length_buckets.encode(self.tokenizer, texts, lengths)
        cut, most = sum(bucket.cut for bucket in encoded), self.model.config.max_position_embeddings
        if cut:
            more = f"--max_tokens takes up to {most}" if longest < most else "more than that the model cannot take"
            print(f"data: {cut:,} of {len(texts.labels):,} {what} are cut to {longest} tokens; {more}", flush=True)
        return encoded

    def save(self, path: epath.Path, params: dict[str, Any], run: str) -> None:
        """What the regime trained, in place of whatever is there."""
        recording.remove(path)
        mask = self._mask(params)
        if self.settings.has_adapter:
            checkpoint.save_adapter(path, params, self.config, mask=mask, run=run)
        else:
            frozen, trained = lora_jax.partition(params, mask)
            checkpoint.save_state(path, trained, frozen, None, step=0, run=run)

    def save_peft(self, path: epath.Path, params: dict[str, Any], base: str) -> None:
        """The adapter and the trained head as a folder of Hugging Face's PEFT."""
        peft.save(path, params, self.config, self.model, mask=self._mask(params), base_model=base, task_type="SEQ_CLS")

    def restore(self, path: epath.Path, run: str) -> dict[str, Any]:
        """The parameters that were saved, on this base. Raises CheckpointError where they do not belong together."""
        if self.settings.has_adapter:
            params = lora_jax.adapt(jax.random.key(0), self.params, self.adapted, jnp.ones((1, 8), jnp.int32))
            return checkpoint.restore_adapter(path, params, self.config, mask=self._mask(params), run=run)
        frozen, trained = lora_jax.partition(self.params, self._mask(self.params))
        return lora_jax.combine(frozen, checkpoint.restore_state(path, trained, frozen, None, run=run))

    def _mask(self, params: dict[str, Any]) -> dict[str, Any]:
        return lora_jax.trainable_mask(params, train=TRAINED[self.settings.regime])

    def logits(self, params: dict[str, Any], sentences: Sequence[str]) -> np.ndarray:
        """float32 [N, C], in the order of the sentences."""
        texts = Texts(tuple(sentences), np.zeros(len(sentences), np.int32))
        found = np.zeros((len(sentences), len(self.classes)), np.float32)
        for bucket in self.encode(texts, "sentences"):
            for start in range(0, len(bucket.rows), CHUNK):
                rows, ids = bucket.rows[start : start + CHUNK], bucket.input_ids[start : start + CHUNK]
                padded = np.pad(ids, ((0, CHUNK - len(ids)), (0, 0)), constant_values=1)  # one shape a bucket
                found[rows] = _apply(self.adapted, params, jnp.asarray(padded))[: len(ids)]
        return found


@functools.partial(jax.jit, static_argnums=0)
def _apply(module: nn.Module, params: dict[str, Any], ids: jax.Array) -> jax.Array:
    return module.apply({"params": params}, ids, ids != 0)
