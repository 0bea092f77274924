"""S4 run: bases pretrained where they are missing, material made, the course taken."""

import functools
from collections.abc import Iterator
from typing import Any

from absl import flags

from experiments.common import devices, main
from experiments.common.errors import UserError
from experiments.data.questions import Pairs
from experiments.following import course, material, said
from experiments.following.course import MEDICAL, OPEN, Lessons
from experiments.following.settings import Settings
from experiments.following.study import Material
from experiments.lm import bpe, prompts, speaker
from experiments.lm import runs as lm
from experiments.lm import study as lm_study
from experiments.lm.speaker import Base

FLAGS = flags.FLAGS
NAME = "following"


def bases(settings: Settings, found: lm.Sources) -> dict[str, list[Base]]:
    """Size -> those of its seeds, each trained unless it is there; all with the tokenizer of the first."""
    trained: dict[str, list[Base]] = {}
    tokenizer = None
    for size, seed in _wanted(settings):
        summary = lm.pretrain(settings.base(size, seed), found.corpus, tokenizer)
        base = speaker.load(summary["model"], weights=summary["weights"])
        tokenizer = tokenizer or base.tokenizer
        if bpe.content(base.tokenizer) != bpe.content(tokenizer):
            raise UserError(
                f"{base.path} was trained with another tokenizer than the other bases; remove its run, and it is made again."
            )
        trained.setdefault(size, []).append(base)
    return trained


def _wanted(settings: Settings) -> Iterator[tuple[str, int]]:
    yield from ((settings.size, seed) for seed in range(settings.bases))
    yield from ((size, 0) for size in settings.other_sizes)


def execute(settings: Settings, found: lm.Sources, figures: Any) -> dict[str, Any]:
    """The summary of the whole course."""
    devices.settle(with_cores=True)

    def study(folder) -> dict[str, Any]:
        trained = bases(settings, found)
        first = trained[settings.size][0]
        pairs = {OPEN: found.pairs[lm_study.INSTRUCTIONS], MEDICAL: found.pairs[lm_study.MEDICAL]}
        asked = {name: _asked(first, settings, of, templates=name == MEDICAL) for name, of in pairs.items()}
        taught = Lessons(
            course.of_items(first.tokenizer, settings),
            functools.partial(course.of_dose, first.tokenizer, settings),
            asked,
        )
        counted = said.that_fit(first, asked[OPEN].shown, settings.prompts)
        made = Material(
            trained, material.of_text(first.tokenizer, found.corpus, settings), counted, prompts.INSTRUCTIONS
        )
        about = {name: {"source": pairs[name].source, "left_out": of.left_out} for name, of in asked.items()}
        return course.run(folder, settings, made, taught) | {"questions": about, "data": found.record()}

    return main.execute(NAME, settings, study, figures, data=found)


def _asked(base: Base, settings: Settings, pairs: Pairs, *, templates: bool) -> material.Asked:
    return material.of_questions(base.tokenizer, pairs, settings, templates=templates)
