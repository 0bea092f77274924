"""S4 run: bases pretrained where they are asked for and missing, material made, the course taken."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tokenizers
from etils import epath

from experiments.common import devices, main, phases
from experiments.common.errors import UserError
from experiments.common.recording import environment
from experiments.data.questions import Pairs
from experiments.following import course, earlier, figures, material, onto, said
from experiments.following.course import MEDICAL, OPEN, Lessons
from experiments.following.earlier import NONE, Earlier
from experiments.following.read import Row, bases_of
from experiments.following.settings import NO_COPYING, OF_A_RUN, Settings
from experiments.following.study import Material
from experiments.lm import answers, bpe, prompts, speaker
from experiments.lm import runs as lm
from experiments.lm.speaker import Base

NAME = "following"
SHIPPED = epath.Path(__file__).parent / "base"


class Bases(Sequence[Base]):
    """Of one size, each made when it is first asked for: where an earlier run has taught a base, nothing may ask for it."""

    def __init__(self, count: int, make: Callable[[int], Base]):
        self._count, self._make, self._made = count, make, {}

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, seed: int) -> Base:
        if not 0 <= seed < self._count:
            raise IndexError(f"base {seed} of {self._count}")
        if seed not in self._made:
            self._made[seed] = self._make(seed)
        return self._made[seed]


def bases(settings: Settings, found: lm.Sources, tokenizer: tokenizers.Tokenizer) -> dict[str, Sequence[Base]]:
    """Size -> those of its seeds, each trained unless it is there, all with one tokenizer. Or the one that lies in the repository."""
    if settings.ships:
        return {settings.size: [speaker.load(SHIPPED)]}

    def trained(size: str, seed: int) -> Base:
        summary = lm.pretrain(settings.base(size, seed), found.corpus, tokenizer)
        base = speaker.load(summary["model"], weights=summary["weights"], dtype=settings.pretraining.dtype)
        if bpe.content(base.tokenizer) != bpe.content(tokenizer):
            raise UserError(
                f"{base.path} was trained with another tokenizer than the other bases; remove its run, and it is made again."
            )
        return base

    others = {size: Bases(1, functools.partial(trained, size)) for size in (NO_COPYING, *settings.other_sizes)}
    return {settings.size: Bases(settings.bases, functools.partial(trained, settings.size)), **others}


def _tokenizer(settings: Settings, found: lm.Sources) -> tokenizers.Tokenizer:
    """Of the first base, which need not be trained for it."""
    if settings.ships:
        return speaker.load(SHIPPED).tokenizer
    return lm.tokenizer(settings.base(settings.size, 0), found.corpus)


def execute(
    name: str, settings: Settings, found: lm.Sources, *, whole: Settings | None = None, before: Earlier = NONE
) -> dict[str, Any]:
    """The summary of the course, and of what an earlier run has told, `before`. It trains in a folder that runs of other parts and numbers of bases
    share, where they go on from the same run; what is saved there goes where this run is the `whole` of them."""
    whole, (both, now) = whole or settings, earlier.extended(settings, before)
    devices.settle(with_cores=True)
    if before is not NONE:
        print(earlier.told(settings, now, before), flush=True)

    def study(_) -> dict[str, Any]:
        shared = main.run_folder(f"{name}_training", dataclasses.replace(whole, parts=()), _Continued(found, before))
        print(f"trains in: {shared.path}", flush=True)
        with shared.held():
            shared.write_environment(data=found.record())
            summary = taught(shared)
            if now == whole:
                phases.forget_saves(shared)
        return summary

    def taught(folder) -> dict[str, Any]:
        tokenizer = _tokenizer(now, found)
        pairs = {OPEN: found.pairs[lm.INSTRUCTIONS], MEDICAL: found.pairs.get(lm.MEDICAL)}
        asked = {part: _asked(tokenizer, now, pairs[part], part) for part in of_questions(now)}
        of_all = Lessons(
            course.of_items(tokenizer, now),
            functools.partial(course.of_dose, tokenizer, now),
            asked,
        )
        made = Material(
            bases(now, found, tokenizer),
            material.of_text(tokenizer, found.corpus, now),
            _counted(tokenizer, now, pairs[OPEN]),
            (*material.shown(), *prompts.INSTRUCTIONS),
        )
        about = {
            part: {"source": pairs[part].source, "left_out": of.left_out}
            for part, of in asked.items()
            if part in now.parts
        }
        same = _of_same_questions(before, {part: of_all.of(part).digest for part in about}, about, now.bases)
        told = course.run(folder, now, made, of_all, same)
        return told | {
            "questions": {**before.questions, **about},
            "runs": [*before.runs, *_run(told["rows"], len(before.runs))],
            "data": found.record(),
        }

    return main.execute(name, both, study, figures, data=_Continued(found, before, now if before is not NONE else None))


def _run(rows: Sequence[Row], number: int) -> list[dict[str, Any]]:
    """The environment of this run, where it taught anything."""
    return [onto.told_of(environment())] if any(number in row["runs"] for row in rows) else []


@dataclasses.dataclass(frozen=True, eq=False)
class _Continued:
    """The data of a run, what it goes on from, and what is asked for then: runs that differ in any have folders of their own."""

    found: lm.Sources
    before: Earlier
    now: Settings | None = None

    @property
    def checksum(self) -> str:
        asked = " ".join(f"{getattr(self.now, name)}" for name in OF_A_RUN) if self.now else ""
        return " ".join(filter(None, (self.found.checksum, self.before.checksum, asked)))

    def record(self) -> dict[str, Any]:
        return self.found.record()


def _of_same_questions(before: Earlier, lessons: Mapping[str, str], about: Mapping[str, Any], bases: int) -> Earlier:
    """Without parts whose lesson, by its digest, is another now, or where none was noted, whose questions are chosen otherwise; a line says so.

    Raises:
      UserError: where more bases would be lost than are taught anew.
    """
    for part, digest in lessons.items():
        noted = before.lessons.get(part)
        is_same = noted == digest if noted else before.questions.get(part, about[part]) == about[part]
        if is_same:
            continue
        lost = max((bases_of(row) for row in before.rows if row["part"] == part), default=0)
        if lost > bases:
            raise UserError(
                f"--bases={bases}: the part {part} has other questions now, and its rows of {lost} bases would be lost; name as many."
            )
        print(f"onto: the part {part} had other questions; it is taught anew", flush=True)
        before = before.without(part)
    return before


def of_questions(settings: Settings) -> tuple[str, ...]:
    """Beside medical questions open ones are asked, too."""
    if MEDICAL in settings.parts:
        return OPEN, MEDICAL
    return (OPEN,) if OPEN in settings.parts else ()


def _asked(tokenizer: tokenizers.Tokenizer, settings: Settings, pairs: Pairs, part: str) -> material.Asked:
    return material.of_questions(tokenizer, pairs, settings, are_pages=part == MEDICAL)


def _counted(tokenizer: tokenizers.Tokenizer, settings: Settings, pairs: Pairs) -> tuple[str, ...]:
    """Open questions whose outputs are counted: held out, whether others are taught or not."""
    held_out = answers.split(pairs.pairs, (min(settings.open_held_out, len(pairs.pairs) // 2), 1))[0]
    room = settings.pretraining.model().config.max_position_embeddings
    return said.that_fit(tokenizer, [pair.question for pair in held_out], settings.prompts, room)
