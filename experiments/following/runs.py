"""S4 run: bases pretrained where they are missing, material made, the course taken."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

from etils import epath

from experiments.common import devices, main, phases
from experiments.common.errors import UserError
from experiments.data.questions import Pairs
from experiments.following import course, figures, material, said
from experiments.following.course import MEDICAL, OPEN, Lessons
from experiments.following.settings import NO_COPYING, Settings
from experiments.following.study import Material
from experiments.lm import answers, bpe, prompts, speaker
from experiments.lm import runs as lm
from experiments.lm.speaker import Base

NAME = "following"
SHIPPED = epath.Path(__file__).parent / "base"


def bases(settings: Settings, found: lm.Sources) -> dict[str, list[Base]]:
    """Size -> those of its seeds, each trained unless it is there; all with the tokenizer of the first. Or the one that lies in the repository."""
    if settings.ships:
        return {settings.size: [speaker.load(SHIPPED)]}
    trained: dict[str, list[Base]] = {}
    tokenizer = None
    for size, seed in _wanted(settings):
        summary = lm.pretrain(settings.base(size, seed), found.corpus, tokenizer)
        base = speaker.load(summary["model"], weights=summary["weights"], dtype=settings.pretraining.dtype)
        tokenizer = tokenizer or base.tokenizer
        if bpe.content(base.tokenizer) != bpe.content(tokenizer):
            raise UserError(
                f"{base.path} was trained with another tokenizer than the other bases; remove its run, and it is made again."
            )
        trained.setdefault(size, []).append(base)
    return trained


def _wanted(settings: Settings) -> Iterator[tuple[str, int]]:
    yield from ((settings.size, seed) for seed in range(settings.bases))
    yield from ((NO_COPYING, 0),) if "control" in settings.parts else ()
    yield from ((size, 0) for size in settings.other_sizes if "sizes" in settings.parts)


def execute(name: str, settings: Settings, found: lm.Sources, *, whole: Settings | None = None) -> dict[str, Any]:
    """The summary of the course. It trains in a folder that runs of other parts and numbers of bases share; what is saved there goes where this
    run is the `whole` of them."""
    whole = whole or settings
    devices.settle(with_cores=True)

    def study(_) -> dict[str, Any]:
        shared = main.run_folder(f"{name}_training", dataclasses.replace(whole, parts=()), found)
        print(f"trains in: {shared.path}", flush=True)
        with shared.held():
            shared.write_environment(data=found.record())
            summary = taught(shared)
            if settings == whole:
                phases.forget_saves(shared)
        return summary

    def taught(folder) -> dict[str, Any]:
        trained = bases(settings, found)
        first = trained[settings.size][0]
        pairs = {OPEN: found.pairs[lm.INSTRUCTIONS], MEDICAL: found.pairs.get(lm.MEDICAL)}
        asked = {part: _asked(first, settings, pairs[part], part) for part in of_questions(settings)}
        of_all = Lessons(
            course.of_items(first.tokenizer, settings),
            functools.partial(course.of_dose, first.tokenizer, settings),
            asked,
        )
        made = Material(
            trained,
            material.of_text(first.tokenizer, found.corpus, settings),
            _counted(first, settings, pairs[OPEN]),
            (*material.shown(), *prompts.INSTRUCTIONS),
        )
        about = {
            part: {"source": pairs[part].source, "left_out": of.left_out}
            for part, of in asked.items()
            if part in settings.parts
        }
        return course.run(folder, settings, made, of_all) | {"questions": about, "data": found.record()}

    return main.execute(name, settings, study, figures, data=found)


def of_questions(settings: Settings) -> tuple[str, ...]:
    """Beside medical questions open ones are asked, too."""
    if MEDICAL in settings.parts:
        return OPEN, MEDICAL
    return (OPEN,) if OPEN in settings.parts else ()


def _asked(base: Base, settings: Settings, pairs: Pairs, part: str) -> material.Asked:
    return material.of_questions(base.tokenizer, pairs, settings, are_pages=part == MEDICAL)


def _counted(base: Base, settings: Settings, pairs: Pairs) -> tuple[str, ...]:
    """Open questions whose outputs are counted: held out, whether others are taught or not."""
    held_out = answers.split(pairs.pairs, (min(settings.open_held_out, len(pairs.pairs) // 2), 1))[0]
    return said.that_fit(base, [pair.question for pair in held_out], settings.prompts)
