"""LoRA r = 8 beside full fine-tuning of one pretrained model, on S4's instructions: the same items, as many updates, each at a rate of its own.

The summary's rows are of the form of S4's (`following.read`): the one model is the unit, items are the sample.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import optax

from experiments.common import items as bits
from experiments.common import tuning
from experiments.common.errors import UserError
from experiments.common.recording import RunFolder
from experiments.data import conversations
from experiments.data.conversations import Conversation
from experiments.data.instructions import checkable
from experiments.finetune import rows, training
from experiments.finetune.base import Base, Voice
from experiments.finetune.rows import Packed
from experiments.finetune.scores import Measure, Scores
from experiments.following import material
from experiments.smollm2.settings import ARMS, Settings

PART = "arms"


@dataclasses.dataclass(frozen=True, eq=False)
class Taught:
    """What is learned from, what chooses rates, and of each judged part its items and their kinds."""

    train: Packed
    tuning: Packed
    judged: dict[str, Packed]
    kinds: dict[str, tuple[str, ...]]


def taught(base: Base, settings: Settings) -> Taught:
    """S4's own items, in the model's tokens and by its chat template."""
    s = settings

    def made(count: int, seed: int, words: str, phrasings: str, kinds: Sequence[str]) -> rows.Encoded:
        found = checkable.items(count, seed, words=words, phrasings=phrasings, kinds=kinds)
        talks = [conversations.asked(item.question, item.answer, item.kind) for item in found]
        return rows.encode(base, conversations.begun(talks, checkable.SYSTEM), s.length, what="of checkable items")

    scored, trained = checkable.SCORED, material.TRAINED
    judged = {
        part: made(s.held_out * len(scored), material.MEASURED, words, phrasings, scored)
        for part, (words, phrasings) in material.PARTS.items()
    }
    return Taught(
        rows.pack(made(s.items, 0, trained, trained, checkable.KINDS), s.length),
        rows.pack(made(s.tuning, 1, material.TUNING, trained, checkable.KINDS), s.length),
        {part: rows.pack(encoded, s.length) for part, encoded in judged.items()},
        {part: _kinds(encoded.conversations) for part, encoded in judged.items()},
    )


def _kinds(found: Sequence[Conversation]) -> tuple[str, ...]:
    return tuple(one.kind for one in found)


def run(folder: RunFolder, settings: Settings, base: Base) -> dict[str, Any]:
    """Returns the summary."""
    lesson = taught(base, settings)
    measured = {"base": _of_base(folder, settings, base, lesson)}
    lines = {}
    for arm in ARMS:
        lines[arm] = _tuned(folder, settings, base, lesson, arm)
        measured[arm] = _of_arm(folder, settings, base, lesson, arm, lines[arm]["best"])
    return {
        "rows": [{"part": PART, "arm": arm, "name": base.name, "units": [[0, 0]]} | row for arm, row in measured.items()],
        "kinds": {part: list(kinds) for part, kinds in lesson.kinds.items()},
        "tuning": [{"arm": arm, **line} for arm, line in lines.items()],
        "base": {"name": base.name, "sha256": base.checksum, "parameters": optax.tree.size(base.params)},
        "train_rows": len(lesson.train),
    }  # fmt: skip


def _of_base(folder: RunFolder, settings: Settings, base: Base, lesson: Taught) -> dict[str, Any]:
    return _known(folder, "base", lambda: {"steps": 0, **_judged(settings, base.voice, lesson)})


def _of_arm(folder: RunFolder, settings: Settings, base: Base, lesson: Taught, arm: str, rate: float) -> dict[str, Any]:
    def made() -> dict[str, Any]:
        out = _trained(folder, settings, base, lesson, arm, rate, settings.steps)
        return {
            "rate": rate, "steps": settings.steps, "parameters": out.parameters, "losses": out.losses,
            "seconds_per_step": out.seconds_per_step, **_judged(settings, out.voice, lesson),
        }  # fmt: skip

    return _known(folder, arm, made)


def _known(folder: RunFolder, name: str, made) -> dict[str, Any]:
    """What was measured once is read: an interrupted run goes on with it."""
    return folder.once(f"{name.replace('=', '').replace(' ', '_')}.json", made)


def _trained(
    folder: RunFolder, settings: Settings, base: Base, lesson: Taught, arm: str, rate: float, steps: int
) -> training.Trained:
    one = settings.training(arm, rate, steps)
    return training.train(folder, one, base, training.begun(one, base), lesson.train, f"{arm}, {rate:g}, {steps} steps")


def _tuned(folder: RunFolder, settings: Settings, base: Base, lesson: Taught, arm: str) -> dict[str, Any]:
    """The rate whose short run answers the tuning items best, in nats a token."""
    rates = settings.rates(arm)
    if len(rates) == 1:
        return tuning.untuned(0, rates[0])

    def score(rate: float) -> float | None:
        def made() -> dict[str, Any]:
            try:
                out = _trained(folder, settings, base, lesson, arm, rate, settings.tuning_steps)
            except UserError:  # diverged
                return {"nats": None}
            of = _scores(settings, out.voice, lesson.tuning)
            return {"nats": float(of.nats.sum() / of.tokens.sum())}

        nats = _known(folder, f"tune {arm} {rate:g}", made)["nats"]
        return None if nats is None else -nats

    def scored(_: int, cells) -> list[list[float | None]]:
        return [[score(rate)] for _, rate in cells]

    (line,) = tuning.search((0,), rates, scored, settings.widenings, arm, tuning.BROKEN_NATS)
    return line


def _scores(settings: Settings, voice: Voice, packed: Packed) -> Scores:
    return Measure(voice.through, settings.batch_size)(voice.params, packed)


def _judged(settings: Settings, voice: Voice, lesson: Taught) -> dict[str, Any]:
    """Which items are right, a bit each; the share; nats a token."""
    measure = Measure(voice.through, settings.batch_size)
    found = {part: measure(voice.params, packed) for part, packed in lesson.judged.items()}
    return {
        "right": {part: bits.packed(np.asarray([of.right])) for part, of in found.items()},
        "share": {part: [float(of.right.mean())] for part, of in found.items()},
        "nats": {part: [float(of.nats.sum() / of.tokens.sum())] for part, of in found.items()},
    }
