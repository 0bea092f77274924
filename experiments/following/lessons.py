"""What is taught, how it is measured, and what a summary keeps of it."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.common import tuning
from experiments.common.items import packed
from experiments.data.instructions import checkable
from experiments.following.material import Asked, Checkable
from experiments.following.parts import Part, digest
from experiments.following.program import Outcome, Scored

Run = tuple[Mapping[str, Scored], int]  # what the judged parts say of a group, and which of its members is meant
OPEN, TUNING = "held out", "tuning"  # names of the judged part, and of the followed one
DIGITS = 2  # of a nat that are kept of an item


@dataclasses.dataclass(frozen=True, eq=False)
class Lesson:
    """`judged` parts are scored item by item, and `told` makes of each run's scores what is kept. `by` chooses rates on `tuning`: the share of
    items that are right, or what the answers cost in nats."""

    name: str
    train: Part
    tuning: Part
    judged: Mapping[str, Part]
    told: Callable[[Sequence[Run]], dict[str, Any]]
    by: str = "right"
    kinds: Mapping[str, Sequence[str]] = dataclasses.field(
        default_factory=dict
    )  # of each item of a judged part, where items are of kinds
    constant: Mapping[str, float] = dataclasses.field(
        default_factory=dict
    )  # of each kind, what a constant answer has right

    @functools.cached_property
    def digest(self) -> str:
        """Of what it teaches and measures."""
        of_parts = {
            "train": self.train,
            "tuning": self.tuning,
            **{f"judged {name}": part for name, part in self.judged.items()},
        }
        said = " ".join(f"{name} {digest(part)}" for name, part in of_parts.items())
        return hashlib.sha256(said.encode()).hexdigest()

    @property
    def broken(self) -> float:
        """How far below the best a score is of training that broke."""
        return tuning.BROKEN if self.by == "right" else tuning.BROKEN_NATS

    def scores(self, out: Outcome) -> list[float | None]:
        """Of each member on `tuning`, the higher the better; None where training diverged."""
        nats, right = (out.curves[TUNING][what][-1] for what in ("nats", "right"))
        values = right if self.by == "right" else -nats
        return [float(value) if np.isfinite(cost) else None for value, cost in zip(values, nats, strict=True)]


def of_items(found: Checkable, name: str = "checkable") -> Lesson:
    """Items that a rule checks: which of them are right, a bit each, their share among the scored kinds, and nats a token."""
    counts = {part: np.isin(kinds, checkable.SCORED) for part, kinds in found.kinds.items()}

    def told(runs: Sequence[Run]) -> dict[str, Any]:
        return {
            "right": {part: packed([scored[part].right[m] for scored, m in runs]) for part in found.judged},
            "share": {
                part: [float(scored[part].right[m][counts[part]].mean()) for scored, m in runs]
                for part in found.judged
                if counts[part].any()
            },  # fmt: skip
            "nats": {part: [_a_token(scored[part], m) for scored, m in runs] for part in found.judged},
        }

    return Lesson(name, found.train, found.tuning, found.judged, told, kinds=found.kinds, constant=found.constant)


def of_questions(found: Asked, name: str, also: Mapping[str, Asked]) -> Lesson:
    """Open questions: what each item says of the question and of the instruction; the same of others that are not taught."""
    asked = {OPEN: found, **also}

    def told(runs: Sequence[Run]) -> dict[str, Any]:
        measured = {part: [one.held_out.measures(scored[part]) for scored, _ in runs] for part, one in asked.items()}
        return {
            "asked": {
                part: {what: [of_run[what][m].round(DIGITS).tolist() for of_run, (_, m) in zip(found_, runs, strict=True)] for what in found_[0]}
                for part, found_ in measured.items()
            }
        }  # fmt: skip

    return Lesson(
        name, found.train, found.tuning, {part: one.held_out.part for part, one in asked.items()}, told, "nats"
    )


def _a_token(scored: Scored, member: int) -> float:
    return float(scored.nats[member].sum() / scored.tokens[member].sum())
