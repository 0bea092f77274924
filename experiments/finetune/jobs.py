"""One pretrained language model, fine-tuned on answers and measured before and after (`finetune_lm.py`)."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import optax

import lora_jax
from experiments.common import memory
from experiments.common.errors import UserError
from experiments.common.recording import RunFolder
from experiments.data import conversations
from experiments.data.conversations import Conversations
from experiments.finetune import rows, saved, speaking, training
from experiments.finetune import scores as finetune_scores
from experiments.finetune.base import Base, Voice
from experiments.finetune.rows import Encoded
from experiments.finetune.scores import Measure, Scores
from experiments.finetune.settings import Settings
from lora_jax import checkpoint

BEFORE = "before.json"
LEAST = 8  # tokens in a row


@dataclasses.dataclass(frozen=True, eq=False)
class Material:
    """A base and what it learns from: what a run depends on beside its settings."""

    base: Base
    data: Conversations

    @functools.cached_property
    def checksum(self) -> str:
        return f"{self.data.checksum} {self.base.checksum}"

    def record(self) -> dict[str, Any]:
        """What environment.json and the summary say about it."""
        return {
            "data": self.data.source, "data_sha256": self.data.checksum, "model": self.base.given, "name": self.base.name,
            "sha256": self.checksum,
        }  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class Exam:
    """What a model is measured on: `encoded` and packed; the first of them are answered in words, too."""

    base: Base
    encoded: Encoded
    packed: rows.Packed
    asked: int
    max_new_tokens: int

    @classmethod
    def of(cls, base: Base, settings: Settings, found: Sequence[conversations.Conversation]) -> "Exam":
        _require_room(settings, base)
        encoded = rows.encode(base, found, settings.length, what="to measure on")
        packed = rows.pack(encoded, settings.length)
        return cls(base, encoded, packed, settings.asked, settings.max_new_tokens)

    @functools.cached_property
    def questions(self) -> list[int]:
        """Which of the items are answered in words: the first that leave room for an answer."""
        most = self.base.positions - self.max_new_tokens
        lengths = [len(prompt) for prompt in self.prompts]
        return [i for i, length in enumerate(lengths) if length <= most][: self.asked]

    @functools.cached_property
    def prompts(self) -> list[list[int]]:
        return [self.base.prompt(one.messages[:-1]) for one in self.encoded.conversations[: 2 * self.asked]]

    def said(self, voice: Voice) -> list[str]:
        """The model's answers to `questions`."""
        if not self.questions:
            return []
        prompts = [self.prompts[i] for i in self.questions]
        return speaking.answers(self.base, voice, prompts, max_new_tokens=self.max_new_tokens)


def finetune(folder: RunFolder, settings: Settings, material: Material) -> dict[str, Any]:
    """Measures, trains, measures again, and saves what was trained; returns the summary."""
    base = material.base
    _require_sense(settings, base)
    train, held_out = conversations.split(material.data, settings.held_out, settings.limit)
    exam = Exam.of(base, settings, conversations.begun(held_out.found, settings.system))
    encoded = rows.encode(base, conversations.begun(train.found, settings.system), settings.length, what="to train on")
    data = rows.pack(encoded, settings.length)
    training.steps_of(settings, len(data))  # refuses before anything is measured
    start = training.begun(settings, base)
    measure = Measure(start.through, settings.batch_size)
    before, said_before = _before(folder, exam, measure, saved.off(start) or start)
    trained = training.train(folder, settings, base, start, data)
    after, said_after = measure(trained.voice.params, exam.packed), exam.said(trained.voice)
    left_out = {**train.left_out}
    for part in (encoded, exam.encoded):
        for reason, count in part.left_out.items():
            left_out[reason] = left_out.get(reason, 0) + count
    return {
        "run": folder.run,
        "regime": settings.regime,
        "base": material.record(),
        "source": material.data.source,
        "parameters": trained.parameters,
        "base_parameters": optax.tree.size(base.params),
        "train_items": len(encoded.examples),
        "train_tokens": encoded.tokens,
        "rows": len(data),
        "left_out": left_out,
        "steps": len(trained.losses),
        "losses": trained.losses,
        "seconds_per_step": trained.seconds_per_step,
        "tokens_per_second": trained.tokens_per_second,
        **_compared(exam, before, after),
        **_samples(exam, said_before, said_after, before, after),
        "spectrum": _spectrum(settings, trained.voice),
        "weights": checkpoint.fingerprint(trained.voice.params),
        "saved": saved.save(folder, settings, base, trained.voice.params),
    }


def _before(folder: RunFolder, exam: Exam, measure: Measure, voice: Voice) -> tuple[Scores, list[str]]:
    """What the base knows, measured once: an interrupted run goes on with it."""

    def measured() -> dict[str, Any]:
        print(f"before: measuring on {len(exam.encoded.examples):,} held-out items", flush=True)
        return {"scores": measure(voice.params, exam.packed).lists(), "said": exam.said(voice)}

    known = folder.once(BEFORE, measured)
    return Scores.of_lists(known["scores"]), known["said"]


def _compared(exam: Exam, before: Scores, after: Scores) -> dict[str, Any]:
    kinds = [one.kind for one in exam.encoded.conversations]
    return {
        "held_out": len(before),
        "before": finetune_scores.summary(before),
        "after": finetune_scores.summary(after),
        "difference": finetune_scores.difference(before, after),
        "kinds": {
            "before": finetune_scores.by_kind(before, kinds), "after": finetune_scores.by_kind(after, kinds)
        } if all(kinds) else None,
        "items": {"before": before.lists(), "after": after.lists()},
    }  # fmt: skip


def _samples(exam: Exam, before: list[str], after: list[str], *scores: Scores) -> dict[str, Any]:
    asked = [exam.encoded.conversations[i] for i in exam.questions]
    samples = [
        {"question": one.question, "true": one.answer, "before": old, "after": new}
        for one, old, new in zip(asked, before, after, strict=True)
    ]
    true = [one.answer for one in asked]
    alike = [
        speaking.agreement(said, true, of.right[exam.questions])
        for said, of in zip((before, after), scores, strict=True)
    ]
    return {"samples": samples, "agreement": {name: sum(one[name] for one in alike) for name in ("n", "alike")}}


def _spectrum(settings: Settings, voice: Voice) -> Any:
    if settings.regime != "lora":
        return None
    return jax.tree.map(np.ndarray.tolist, lora_jax.spectrum(voice.params))


def _require_room(settings: Settings, base: Base) -> None:
    """UserError for rows longer than the model's window, or answers that leave none of it to a question."""
    if settings.length > base.positions:
        raise UserError(
            f"--length: {settings.length:,} is not between {LEAST} and {base.positions:,}, the positions of {base.name}."
        )
    if settings.max_new_tokens >= base.positions:
        raise UserError(
            f"--max_new_tokens: {settings.max_new_tokens:,} is not below {base.positions:,}, the positions of {base.name}."
        )


def _require_sense(settings: Settings, base: Base) -> None:
    """UserError for what has no room in the model's window, or surely does not fit into memory; a warning for a rank that is not low."""
    _require_room(settings, base)
    if settings.regime == "lora":
        one = dataclasses.replace(settings, rank=1, alpha=1.0, init="lora", dora=False)
        trained = memory.of_adapters(base.model, training.config_of(one), settings.rank, *base.model.example())
        what, advice = f"an adapter of --rank={settings.rank:,}", "give a smaller --rank"
    else:
        trained = memory.bytes_of(training.trained_leaves(settings, base))
        what, advice = f"--regime={settings.regime}", "take --regime=lora"
    memory.require(memory.of_training(1, trained), f"training {what}", advice)
    width = base.model.config.hidden_size
    if settings.regime == "lora" and settings.rank >= width:
        print(
            f"warning: --rank={settings.rank} is not below {width}, the width of this model: the update is no longer low-rank.",
            flush=True,
        )


def evaluate(base: Base, settings: Settings, found: Conversations, voices: dict[str, Voice]) -> dict[str, Any]:
    """Each voice's numbers on the conversations, by name; what the last one says."""
    exam = Exam.of(base, settings, conversations.begun(found.found, settings.system))
    scores = {name: finetune_scores.of_voice(voice, exam.packed, settings.batch_size) for name, voice in voices.items()}
    return {
        "source": found.source,
        "held_out": len(exam.encoded.examples),
        "left_out": exam.encoded.left_out,
        "voices": {name: finetune_scores.summary(one) for name, one in scores.items()},
        "difference": finetune_scores.difference(scores["base"], scores["adapter"]) if "adapter" in scores else None,
        "samples": [
            {"question": exam.encoded.conversations[i].question, "true": exam.encoded.conversations[i].answer, "said": said}
            for i, said in zip(exam.questions, exam.said(list(voices.values())[-1]), strict=True)
        ],
    }  # fmt: skip
