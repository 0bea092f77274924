"""One fine-tuned BERT: its settings, and the classifier they make of a base. Letters: N sentences, C classes."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import tokenizers
from etils import epath

import lora_jax
from experiments.common import recording
from experiments.common.errors import UserError
from experiments.data import buckets as length_buckets
from experiments.data.bert_base import Base
from experiments.data.buckets import Bucket
from experiments.data.sst2 import CLASSES, Texts
from experiments.studies.sst2 import REFERENCE_RANK
from experiments.studies.sst2_training import HEAD, TARGETS
from lora_jax import checkpoint
from lora_jax.models import bert, bert_folder

# Learning rates at BERT-tiny's width, of those the study tunes. A wider BERT takes lower ones, in proportion, as published
# ones do: full fine-tuning 5e-5 to 3e-4 at width 128 (Turc et al. 2019), 2e-5 to 5e-5 at 768 (Devlin et al. 2018).
RATES = {"LoRA": 1e-3, "head only": 1e-2, "full": 1e-4, "LoRA all linear": 1e-3}
RATES_WIDTH = 128
TRAINED = {"LoRA": HEAD, "head only": HEAD, "full": ("*",), "LoRA all linear": HEAD}  # beside adapters
LENGTHS = (*length_buckets.LENGTHS, 144, 288)
CHUNK = 64  # sentences that are asked at once


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a run trains; None is settled by the base (`for_base`), or by the data (`batch_size`).

    `scale` is c = alpha/r; `train_limit` None is all sentences.
    """

    regime: str = "LoRA"
    rank: int | None = None
    learning_rate: float | None = None
    seed: int = 0
    epochs: int = 3
    batch_size: int | None = None
    train_limit: int | None = None
    max_tokens: int | None = None
    scale: float = 2.0
    dropout: float = 0.0
    warm_up: float = 0.06
    weight_decay: float = 0.01

    def __post_init__(self):
        if self.regime not in RATES:
            raise UserError(f"--regime: there is no regime {self.regime!r}; there are {', '.join(RATES)}.")
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise UserError(f"--learning_rate: {self.learning_rate} is no positive number.")

    @property
    def has_adapter(self) -> bool:
        return self.regime in TARGETS

    @property
    def caches(self) -> bool:
        """Whether the head trains on features of the encoder, computed once; dropout then acts on the head alone."""
        return self.regime == "head only"

    def for_base(self, config: bert.BertConfig) -> "Settings":
        """With all that the base settles, so that a default and the same value given are the same run.

        Raises:
          UserError: for a rank above the model's width, or more tokens than it has positions.
        """
        rank, most = self.rank or REFERENCE_RANK, config.max_position_embeddings
        if self.has_adapter and rank > config.hidden_size:
            raise UserError(
                f"--rank: {rank} is above {config.hidden_size}, the width of this model; a larger rank adds nothing."
            )
        if (self.max_tokens or 0) > most:
            raise UserError(f"--max_tokens: {self.max_tokens} is above {most}, the positions that this model has.")
        narrow = min(1.0, RATES_WIDTH / config.hidden_size)
        return dataclasses.replace(
            self,
            rank=rank if self.has_adapter else None,
            learning_rate=self.learning_rate or float(f"{RATES[self.regime] * narrow:.2g}"),
            max_tokens=self.max_tokens or min(length_buckets.LENGTHS[-1], most),
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Classifier:
    """A regime's model over a base: `params` has the base's encoder and a head that is not trained yet."""

    settings: Settings
    model: bert.BertForSequenceClassification
    params: dict[str, Any]
    tokenizer: tokenizers.Tokenizer

    @classmethod
    def over(cls, base: Base, settings: Settings) -> "Classifier":
        model = bert.BertForSequenceClassification(base.folder.config.with_dropout(settings.dropout), len(CLASSES))
        loaded = {"bert": base.folder.params["bert"]}  # a classifier of its own
        params, _ = bert_folder.initialised(model, jax.random.key(0), loaded)
        return cls(settings, model, params, base.tokenizer)

    @functools.cached_property
    def adapted(self) -> nn.Module:
        """What is applied: the model, with adapters where the regime has some."""
        return lora_jax.LoRA(self.model, self.config) if self.settings.has_adapter else self.model

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

    def save(self, path: epath.Path, params: dict[str, Any]) -> None:
        """What the regime trained, in place of whatever is there."""
        recording.remove(path)
        mask = self._mask(params)
        if self.settings.has_adapter:
            checkpoint.save_adapter(path, params, self.config, mask=mask)
        else:
            frozen, trained = lora_jax.partition(params, mask)
            checkpoint.save_state(path, trained, frozen, None, step=0)

    def restore(self, path: epath.Path) -> dict[str, Any]:
        """The parameters that were saved, on this base. Raises CheckpointError where they do not belong together."""
        if self.settings.has_adapter:
            params = lora_jax.adapt(jax.random.key(0), self.params, self.adapted, jnp.ones((1, 8), jnp.int32))
            return checkpoint.restore_adapter(path, params, self.config, mask=self._mask(params))
        frozen, trained = lora_jax.partition(self.params, self._mask(self.params))
        return lora_jax.combine(frozen, checkpoint.restore_state(path, trained, frozen, None))

    def _mask(self, params: dict[str, Any]) -> dict[str, Any]:
        return lora_jax.trainable_mask(params, train=TRAINED[self.settings.regime])

    def logits(self, params: dict[str, Any], sentences: Sequence[str]) -> np.ndarray:
        """float32 [N, C], in the order of the sentences."""
        texts = Texts(tuple(sentences), np.zeros(len(sentences), np.int32))
        found = np.zeros((len(sentences), len(CLASSES)), np.float32)
        for bucket in self.encode(texts, "sentences"):
            for start in range(0, len(bucket.rows), CHUNK):
                rows, ids = bucket.rows[start : start + CHUNK], bucket.input_ids[start : start + CHUNK]
                padded = np.pad(ids, ((0, CHUNK - len(ids)), (0, 0)), constant_values=1)  # one shape a bucket
                found[rows] = _apply(self.adapted, params, jnp.asarray(padded))[: len(ids)]
        return found


@functools.partial(jax.jit, static_argnums=0)
def _apply(module: nn.Module, params: dict[str, Any], ids: jax.Array) -> jax.Array:
    return module.apply({"params": params}, ids, ids != 0)
