"""One BERT fine-tuned for use, and asked (`bert_sst2.py --job=finetune` and `--job=predict`).

A run's folder holds `adapter/`, what was trained, by orbax and bound to its base; `merged/`, the whole model as a Hugging
Face folder that `transformers` loads; summary.json, and predictions.json once it was asked. Letters: N sentences, C classes.
"""

import dataclasses
import functools
import math
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import tokenizers

import lora_jax
from experiments.common import phases
from experiments.common.errors import UserError
from experiments.common.recording import RunFolder, write_json
from experiments.data import buckets as length_buckets
from experiments.data.bert_base import Base, Inputs
from experiments.data.buckets import Bucket
from experiments.data.sst2 import CLASSES, Texts
from experiments.studies import sst2_training as training
from experiments.studies.sst2 import REFERENCE_RANK, limited
from experiments.studies.sst2_training import HEAD, STEPS, TARGETS, Outcome, Recipe, Task
from lora_jax import checkpoint, sweep
from lora_jax.models import bert, bert_folder
from lora_jax.models.weight_files import write_atomically

# Learning rates at BERT-tiny's width. A wider BERT takes lower ones, in proportion, as published ones do: full fine-tuning
# 3e-4 at width 128 (Turc et al. 2019) and 5e-5 at 768 (Devlin et al. 2018).
RATES = {"LoRA": 2e-3, "head only": 1e-2, "full": 3e-4, "LoRA all linear": 2e-3}
RATES_WIDTH = 128
TRAINED = {"LoRA": HEAD, "head only": HEAD, "full": ("*",), "LoRA all linear": HEAD}  # beside adapters
BATCH_SIZES = (32, 16, 8, 4, 2, 1)
MOST_LEFT_OUT = 0.25  # of an epoch, before batches become smaller
MEASUREMENTS = 10  # per epoch, and at most as many saves: a large BERT's epoch takes hours
LENGTHS = (*length_buckets.LENGTHS, 144, 288)
CHUNK = 64  # sentences that are asked at once
TOKENIZER_FILES = ("vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
EXAMPLES = (
    "a gorgeous, witty, seductive movie.",
    "the plot is paper-thin and the jokes fall flat.",
    "i love this, thank you so much!",
    "worst service ever, i want my money back.",
)


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
        """Whether the head trains on features of the encoder, computed once: exact without dropout."""
        return self.regime == "head only" and not self.dropout

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


PRESETS = {"smoke": Settings(epochs=1, train_limit=1500), "quick": Settings(), "full": Settings(epochs=5)}


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

    def save(self, path: pathlib.Path, params: dict[str, Any]) -> None:
        """What the regime trained, in place of whatever is there."""
        shutil.rmtree(path, ignore_errors=True)
        mask = self._mask(params)
        if self.settings.has_adapter:
            checkpoint.save_adapter(path, params, self.config, mask=mask)
        else:
            frozen, trained = lora_jax.partition(params, mask)
            checkpoint.save_state(path, trained, frozen, None, step=0)

    def restore(self, path: pathlib.Path) -> dict[str, Any]:
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


def finetune(folder: RunFolder, settings: Settings, inputs: Inputs) -> dict[str, Any]:
    """Trains, and saves what was trained and the merged model; returns the summary.

    Raises:
      UserError: for too few sentences, or training that diverged.
    """
    classifier = Classifier.over(inputs.base, settings)
    chosen = limited(inputs.data.train, settings.train_limit)
    if len(np.unique(chosen.labels)) < len(CLASSES):
        raise UserError(f"--train_limit={settings.train_limit}: the sentences drawn all have one label; take more.")
    train = classifier.encode(chosen, "training sentences")
    score = classifier.encode(inputs.data.validation, "validation sentences")
    batch_size, train, left_out = _batches(settings, train)
    outcome = _train(folder, classifier, train, score, batch_size)
    if not np.isfinite(outcome.loss).all():
        raise UserError(
            f"training diverged at --learning_rate={settings.learning_rate:g}: the loss is no longer finite; take a lower one."
        )
    params = sweep.member_params(outcome.state, outcome.shared, 0)
    classifier.save(folder.path / "adapter", params)
    merged = lora_jax.merge(params) if settings.has_adapter else params
    _write_merged(folder.path / "merged", inputs.base, merged)
    positive = float(np.mean(inputs.data.validation.labels))
    return {
        "regime": settings.regime,
        "sentences": sum(len(bucket.rows) for bucket in train),
        "batch_size": batch_size,
        "left_out_of_an_epoch": left_out,
        "parameters": outcome.parameters[0],
        "base_parameters": sum(leaf.size for leaf in jax.tree.leaves(classifier.params)),
        "accuracy": float(outcome.accuracy[-1, 0]),
        "accuracies": outcome.accuracy[:, 0].tolist(),
        "losses": outcome.loss[:, 0].tolist(),
        "majority": max(positive, 1 - positive),
        "examples": _predictions(EXAMPLES, classifier.logits(params, EXAMPLES)),
        "adapter": "adapter",
        "merged": "merged",
        "data": inputs.record(),
    }


def _batches(settings: Settings, encoded: list[Bucket]) -> tuple[int, list[Bucket], float]:
    """(batch size, buckets that hold a piece each, share left out of an epoch): the size given, or what fits the data."""
    count = sum(len(bucket.rows) for bucket in encoded)
    sizes = [size for size in BATCH_SIZES if size * STEPS <= count]
    if not sizes:
        raise UserError(f"there are {count} sentences to train on, which is too few; {STEPS} or more are needed.")
    if settings.batch_size is not None and settings.batch_size * STEPS > count:
        raise UserError(
            f"--batch_size: {STEPS} batches of {settings.batch_size} run as one, and there are {count:,} sentences to train "
            f"on; {count // STEPS} is the most."
        )
    for size in [settings.batch_size] if settings.batch_size is not None else sizes:
        merged = length_buckets.merge_small(encoded, size, STEPS)
        left_out = length_buckets.left_out([len(bucket.rows) for bucket in merged], size, STEPS)
        if left_out <= MOST_LEFT_OUT:
            break
    return size, merged, left_out


def _train(folder: RunFolder, classifier: Classifier, train, score, batch_size: int) -> Outcome:
    s = classifier.settings
    on_device = [training.on_device(train), training.on_device(score)]
    if s.caches:
        on_device = [training.features(classifier.model, classifier.params, buckets) for buckets in on_device]
    task = Task(classifier.model, classifier.params, *on_device, features=s.caches)
    pieces = sum(length_buckets.piece_counts([len(bucket["y"]) for bucket in task.train], batch_size, STEPS))
    recipe = Recipe(s.epochs, batch_size, s.warm_up, s.weight_decay, blocks_per_epoch=min(MEASUREMENTS, pieces))
    adapter = (s.rank, s.scale) if s.has_adapter else (0, None)
    members = [sweep.Member(*adapter, s.learning_rate, s.seed)]
    return training.train_group(folder, "finetune", task, s.regime, members, recipe, "sequential")


def _write_merged(path: pathlib.Path, base: Base, params: dict[str, Any]) -> None:
    """A Hugging Face folder: the base's own config and tokenizer, so that it cuts words as the base does."""
    bert_folder.write(path, base.folder.config, params)
    for name in TOKENIZER_FILES:
        if (base.folder.path / name).is_file():
            write_atomically(path / name, (base.folder.path / name).read_bytes())


def predict(folder: RunFolder, settings: Settings, base: Base, sentences: Sequence[str]) -> list[dict[str, Any]]:
    """What the run's model says of each sentence; also in predictions.json.

    Raises:
      UserError: where the run is not complete, or its adapter cannot be read.
    """
    if folder.summary() is None:
        raise UserError(
            f"--job=predict: {folder.path} holds no fine-tuned model yet; run --job=finetune with the same flags first."
        )
    classifier = Classifier.over(base, settings)
    path = folder.path / "adapter"
    with phases.mending(f"remove {folder.path / 'summary.json'}, then run --job=finetune with the same flags"):
        params = classifier.restore(path)
    predictions = _predictions(sentences, classifier.logits(params, sentences))
    write_json(folder.path / "predictions.json", {"regime": settings.regime, "predictions": predictions})
    return predictions


def _predictions(sentences: Sequence[str], logits: np.ndarray) -> list[dict[str, Any]]:
    """One dict per sentence; `probability` is that of the label said."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = shifted / shifted.sum(axis=1, keepdims=True)
    return [
        {"sentence": sentence, "label": CLASSES[p.argmax()], "probability": float(p.max()), "logits": line.tolist()}
        for sentence, p, line in zip(sentences, probabilities, logits, strict=True)
    ]


def table(summary: dict[str, Any]) -> str:
    """What was trained, and how well it does."""
    s, data = summary["settings"], summary["data"]
    rank = f", rank {s['rank']}" if s["rank"] else ""
    share = summary["parameters"] / summary["base_parameters"]
    return "\n".join(
        [
            f"{s['regime']}{rank}, seed {s['seed']}: {summary['parameters']:,} parameters ({100 * share:.2f} % of the model's), "
            f"{s['epochs']} x {summary['sentences']:,} sentences in batches of {summary['batch_size']}, "
            f"learning rate {s['learning_rate']:g}",
            f"validation accuracy: {100 * summary['accuracy']:.2f} % of {data['validation']:,} sentences; before training "
            f"{100 * summary['accuracies'][0]:.2f} %, always the commoner class {100 * summary['majority']:.2f} %",
        ]
    )


def draw(summary: dict[str, Any], folder: pathlib.Path) -> list[pathlib.Path]:
    """Nothing: a single run is told by its table."""
    return []
