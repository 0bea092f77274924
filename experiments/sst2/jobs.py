"""One BERT fine-tuned for use, and asked (`bert_sst2.py --job=finetune` and `--job=predict`).

A run's folder holds `adapter/`, what was trained, by orbax and bound to its base; with adapters `peft/`, the same as a folder of Hugging Face's
PEFT; `merged/`, the whole model as a Hugging Face folder that `transformers` loads; id2label.json, the words of its labels; summary.json, and
predictions.json once it was asked. Letters: N sentences, C classes.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import optax
from etils import epath

import lora_jax
from experiments.bert.base import Base
from experiments.common import memory, phases, processes
from experiments.common.errors import UserError
from experiments.common.recording import RunFolder, read_run, write_json
from experiments.data import buckets as length_buckets
from experiments.data.buckets import Bucket
from experiments.data.sst2 import CLASSES
from experiments.sst2 import training
from experiments.sst2.classifier import Classifier
from experiments.sst2.classifier_settings import PRESETS as PRESETS
from experiments.sst2.classifier_settings import Settings
from experiments.sst2.inputs import Inputs
from experiments.sst2.study import limited
from experiments.sst2.training import STEPS, Outcome, Recipe, Task
from lora_jax import checkpoint, sweep
from lora_jax.models import bert_folder

BATCH_SIZES = (32, 16, 8, 4, 2, 1)
MOST_LEFT_OUT = 0.25  # of an epoch, before batches become smaller
MEASUREMENTS = 10  # per epoch, and at most as many saves: a large BERT's epoch takes hours
RUN = "bert_sst2_finetune"  # begins the names of the runs' folders
TOKENIZER_FILES = ("vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
EXAMPLES = (
    "a gorgeous, witty, seductive movie.",
    "the plot is paper-thin and the jokes fall flat.",
    "i love this, thank you so much!",
    "worst service ever, i want my money back.",
)


def finetune(folder: RunFolder, settings: Settings, inputs: Inputs) -> dict[str, Any]:
    """Trains, and saves what was trained and the merged model; returns the summary.

    Raises:
      UserError: for too few sentences, or training that diverged.
    """
    classes = inputs.data.classes
    classifier = Classifier.over(inputs.base, settings, classes)
    trained = memory.bytes_of(classifier.params) if settings.regime == "full" else 0
    memory.require(
        memory.of_training(1, trained), "full fine-tuning of this model", "take --regime=LoRA, or a smaller --bert"
    )
    chosen = limited(inputs.data.train, settings.train_limit)
    absent = sorted(set(range(len(classes))) - set(chosen.labels.tolist()))
    if absent:
        raise UserError(
            f"--train_limit={settings.train_limit}: no sentence that is drawn has the label {classes[absent[0]]!r}; take more."
        )
    train = classifier.encode(chosen, "training sentences")
    score = classifier.encode(inputs.data.validation, "validation sentences")
    batch_size, train, left_out = _batches(settings, train)
    outcome = _train(folder, classifier, train, score, batch_size)
    if not np.isfinite(outcome.loss).all():
        raise UserError(
            f"training diverged at --learning_rate={settings.learning_rate:g}: the loss is no longer finite; take a lower one."
        )
    params = sweep.member_params(outcome.state, outcome.shared, 0)
    classifier.save(folder.path / "adapter", params, folder.run)
    merged = lora_jax.merge(params) if settings.has_adapter else params
    _write_merged(folder.path / "merged", inputs.base, merged, classes)
    if settings.has_adapter and processes.is_first():
        classifier.save_peft(folder.path / "peft", params, _named(inputs.base))
    write_json(folder.path / "id2label.json", dict(enumerate(classes)))
    counts = np.bincount(inputs.data.validation.labels, minlength=len(classes))
    return {
        "regime": settings.regime,
        "sentences": sum(len(bucket.rows) for bucket in train),
        "batch_size": batch_size,
        "left_out_of_an_epoch": left_out,
        "parameters": outcome.parameters[0],
        "base_parameters": optax.tree.size(classifier.params),
        "accuracy": float(outcome.accuracy[-1, 0]),
        "accuracies": outcome.accuracy[:, 0].tolist(),
        "losses": outcome.loss[:, 0].tolist(),
        "majority": float(counts.max() / counts.sum()),
        "spectrum": jax.tree.map(np.ndarray.tolist, lora_jax.spectrum(params)) if settings.has_adapter else None,
        "classes": list(classes),
        "examples": _predictions(classifier, params, EXAMPLES),
        "adapter": "adapter",
        "peft": "peft" if settings.has_adapter else None,
        "merged": "merged",
        "merged_weights": checkpoint.fingerprint(merged),
        "merged_files": _digests(folder.path / "merged"),
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


def _named(base: Base) -> str:
    """As PEFT's automatic classes find it: a folder, or a name on the hub."""
    return str(base.folder.path) if base.folder.path.is_absolute() else str(epath.Path(base.folder.path).resolve())


def _write_merged(path: epath.Path, base: Base, params: dict[str, Any], classes: tuple[str, ...]) -> None:
    """A Hugging Face folder: the base's own config and tokenizer, so that it cuts words as the base does; its config has the labels' words."""
    if processes.is_first():
        tokenizer = [file for file in (base.folder.path / name for name in TOKENIZER_FILES) if file.is_file()]
        beside = {file.name: file.read_bytes() for file in tokenizer}
        bert_folder.write(path, base.folder.config, params, labels=classes, beside=beside)
    processes.wait("merged")


def predict(folder: RunFolder, settings: Settings, base: Base, sentences: Sequence[str]) -> list[dict[str, Any]]:
    """What the run's model says of each sentence; also in predictions.json.

    Raises:
      UserError: where the run is not complete, or its adapter cannot be read.
    """
    if folder.summary() is None:
        raise UserError(
            f"--job=predict: {folder.path} holds no fine-tuned model yet; run --job=finetune with the same flags first."
        )
    classifier = Classifier.over(base, settings, _classes(folder.summary()))
    path = folder.path / "adapter"
    with phases.mending(f"remove {folder.path / 'summary.json'}, then run --job=finetune with the same flags"):
        params = classifier.restore(path, folder.run)
    return _asked(folder.path, classifier, params, sentences)


def finished(path: epath.Path) -> dict[str, Any]:
    """The summary of a finished run of `finetune`. Raises UserError where the folder is none, or not as the run wrote it."""
    summary = read_run(path, RUN) if (path / "merged").is_dir() else None
    if summary is None:
        raise UserError(
            f"--model={path}: it is no folder of a finished run of --job=finetune, which has config.json, summary.json and merged/; "
            "name the folder that such a run printed."
        )
    return summary


def predict_by(path: epath.Path, sentences: Sequence[str]) -> list[dict[str, Any]]:
    """As `predict`, by the folder of the run alone: nothing else need be there."""
    summary = finished(path)
    known = {field.name for field in dataclasses.fields(Settings)}
    settings = Settings(**{name: value for name, value in summary["settings"].items() if name in known})
    changed = [
        name for name, digest in summary.get("merged_files", {}).items() if _digest(path / "merged" / name) != digest
    ]
    if changed:
        raise UserError(
            f"{path / 'merged' / changed[0]} is not what its run wrote; put the old one back, or run --job=finetune again."
        )
    classifier = Classifier.merged(path / "merged", settings, _classes(summary))
    if checkpoint.fingerprint(classifier.params) != summary["merged_weights"]:
        raise UserError(f"{path / 'merged'} does not hold the weights that its run wrote; run --job=finetune again.")
    return _asked(path, classifier, classifier.params, sentences)


def _digests(path: epath.Path) -> dict[str, str]:
    """Of the config and the tokenizer's files, on which predictions depend as they do on the weights."""
    names = ("config.json", *TOKENIZER_FILES)
    return {name: _digest(path / name) for name in names if (path / name).is_file()}


def _digest(file: epath.Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""


def _classes(summary: dict[str, Any]) -> tuple[str, ...]:
    """The words of the labels; of a run from before they were recorded, SST-2's."""
    return tuple(summary.get("classes", CLASSES))


def _asked(path: epath.Path, classifier: Classifier, params: dict[str, Any], sentences) -> list[dict[str, Any]]:
    predictions = _predictions(classifier, params, sentences)
    write_json(path / "predictions.json", {"regime": classifier.settings.regime, "predictions": predictions})
    return predictions


def _predictions(classifier: Classifier, params: dict[str, Any], sentences: Sequence[str]) -> list[dict[str, Any]]:
    """One dict per sentence; `probability` is that of the label said."""
    logits = classifier.logits(params, sentences)
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = shifted / shifted.sum(axis=1, keepdims=True)
    return [
        {
            "sentence": sentence,
            "label": classifier.classes[p.argmax()],
            "probability": float(p.max()),
            "logits": line.tolist(),
        }
        for sentence, p, line in zip(sentences, probabilities, logits, strict=True)
    ]
