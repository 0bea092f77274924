"""The whole of S4: what is taught to which bases, part by part; a part that is complete is not run again."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from experiments.common.items import unpacked
from experiments.common.recording import RunFolder
from experiments.data.instructions import checkable
from experiments.following import arms, lessons, material
from experiments.following.arms import Arm
from experiments.following.earlier import NONE, SAME_BASES, Earlier
from experiments.following.lessons import Lesson
from experiments.following.material import Asked
from experiments.following.program import Recipe
from experiments.following.settings import BATCH, NO_COPYING, SMALL_BATCH, Settings
from experiments.following.study import Material, Study

OPEN, MEDICAL = "open", "medical"
# Of parts in rows, where they are not what the settings call them.
NAMES = {"others": "arms", **dict.fromkeys(("study", "batch", "longer"), "the study's")}
FIRST = (arms.lora(8), arms.FULL)  # the arms that the gate is made of
ORDER = (
    *checkable.SCORED,
    *(kind for kind in checkable.KINDS if kind not in checkable.SCORED),
)  # in which kinds are added
Rows = list[dict[str, Any]]


@dataclasses.dataclass(frozen=True, eq=False)
class Lessons:
    """What is taught: items of a number of kinds (`items` of all), open questions and medical ones."""

    items: Lesson
    dose: Callable[[int], Lesson]
    asked: Mapping[str, Asked]

    def of(self, name: str) -> Lesson:
        """Open or medical questions; beside medicine, open ones are asked, too."""
        also = {} if name == OPEN else {OPEN: self.asked[OPEN]}
        return lessons.of_questions(self.asked[name], name, also)


def run(
    folder: RunFolder, settings: Settings, found: Material, taught: Lessons, before: Earlier = NONE
) -> dict[str, Any]:
    """Returns the summary of these parts and of those that an earlier run has told, `before`; no base may move."""
    about = {
        "shown": list(found.shown),
        "prompts": len(found.prompts),
        "kinds": {part: list(kinds) for part, kinds in taught.items.kinds.items()},
        "constant": dict(taught.items.constant),
    }
    before.require_same(about)
    study, size = Study(folder, settings, found, before), settings.size
    study.note("prompts", hashlib.sha256("\n".join(found.prompts).encode()).hexdigest())
    study.note(taught.items.name, taught.items.digest)
    parts = {}
    for name in settings.parts:
        study.is_compared = name in SAME_BASES
        parts[name] = _PARTS[name](study, size, taught)
    study.require_unmoved()
    rows = [{"part": NAMES.get(part, part), **row} for part, rows in parts.items() for row in rows]
    return {
        "rows": [*rows, *before.beside(rows)],
        "tuning": list(study.tuned.values()),
        "outputs": study.outputs,
        **about,
        "weights": before.weights_beside(study.weights, size),
        "lessons": {**before.lessons, **study.lessons},
        "base_unchanged": True,
    }


def _every(s: Settings) -> list[Arm]:
    controls = (arms.SQUARE_TUNED, arms.WITH_EMBEDDINGS, arms.EMBEDDINGS_ALONE, arms.ON_PROJECTIONS)
    return [*map(arms.lora, s.ranks), *(controls if s.controls else ()), arms.FULL]


def _arms(study: Study, size: str, taught: Lessons) -> Rows:
    """The rates of every arm; then the bases, LoRA r = 8 and full fine-tuning, all after the same number of updates: what the gate needs."""
    s, lesson = study.settings, taught.items
    study.tune(size, lesson, _every(s), min(s.steps, s.tuning_steps))
    bases, found = study.untaught(size, lesson, speaks=True), [arm for arm in _every(s) if arm in FIRST]
    return [bases, *study.taught(size, lesson, found, Recipe.even(s.steps, BATCH), seeds=s.seeds, speaks=True)]


def _others(study: Study, size: str, taught: Lessons) -> Rows:
    """The other arms, after as many updates."""
    s, found = study.settings, [arm for arm in _every(study.settings) if arm not in FIRST]
    seeds = 1 if s.controls else s.seeds
    return study.taught(size, taught.items, found, Recipe.even(s.steps, BATCH), seeds=seeds, shows=True)


def _the_studys(study: Study, size: str, taught: Lessons) -> Rows:
    """Its LoRA at its rate, at each of its ranks, after the first two numbers of epochs."""
    s, lesson, ends = study.settings, taught.items, _ends(study, taught)[:2]
    first, others = arms.original(s.study_ranks[0]), [arms.original(rank) for rank in s.study_ranks[1:]]
    return [
        *study.taught(size, lesson, [first], Recipe(ends[:1], BATCH), name="one epoch", speaks=True),
        *(
            study.taught(size, lesson, [first], Recipe(ends, BATCH, ends), name="epochs", speaks=True)
            if len(ends) > 1
            else ()
        ),
        *study.taught(size, lesson, others, Recipe(ends, BATCH, ends), name="epochs", shows=True),
    ]


def _smaller_batch(study: Study, size: str, taught: Lessons) -> Rows:
    """Its LoRA with a smaller batch, after as many updates and as many rows as with its own."""
    few = _ends(study, taught)[:2]
    ends, first = (*few, few[-1] * BATCH // SMALL_BATCH), arms.original(study.settings.study_ranks[0])
    return study.taught(size, taught.items, [first], Recipe(ends, SMALL_BATCH, ends), name="small batch")


def _longer(study: Study, size: str, taught: Lessons) -> Rows:
    """Its LoRA after every number of epochs, on fewer bases."""
    s, ends = study.settings, _ends(study, taught)
    first = arms.original(s.study_ranks[0])
    return study.taught(size, taught.items, [first], Recipe(ends, BATCH, ends), name="many epochs", bases=s.many_bases)


def _ends(study: Study, taught: Lessons) -> tuple[int, ...]:
    """Updates of each number of epochs."""
    rows = len(taught.items.train.owners)
    return tuple(rows // BATCH * epoch for epoch in study.settings.epochs)


def _converged(study: Study, size: str, taught: Lessons) -> Rows:
    """Long training, measured on the way: where the tuning items are best is where it would stop."""
    s, lesson = study.settings, taught.items
    recipe = Recipe.even(s.long_steps, BATCH, judged_always=True)
    return study.taught(size, lesson, [arms.lora(8), arms.FULL], recipe, name="long")


def _doses(study: Study, size: str, taught: Lessons) -> Rows:
    """More and more kinds, as many items of each, in as many updates: at which does a rank fall behind? One base, rates as for all kinds. The kinds
    of the smallest dose are in all of them, so their items compare doses."""
    s, found = study.settings, []
    for count in s.doses:
        lesson = taught.dose(count)
        kinds = lesson.kinds[material.WORDS]
        is_of_first = np.isin(kinds, ORDER[: min(s.doses)])
        for row in study.taught(
            size, lesson, [*map(arms.lora, s.dose_ranks), arms.FULL], Recipe.even(s.dose_steps, BATCH, 4), seeds=s.tuning_seeds, bases=1,
            rates_of=taught.items,
        ):  # fmt: skip
            right = unpacked(row["right"][material.WORDS], len(kinds))[:, is_of_first]
            found.append({**row, "kinds": count, "of_first": right.mean(axis=1).tolist()})
    return found


def _sizes(study: Study, _: str, taught: Lessons) -> Rows:
    return [row for size in study.settings.other_sizes for row in _size(study, size, taught.items)]


def _control(study: Study, _: str, taught: Lessons) -> Rows:
    """The same fine-tuning of a base that was shown nothing said again."""
    return _size(study, NO_COPYING, taught.items)


def _size(study: Study, size: str, lesson: Lesson) -> Rows:
    """One other base: the study's LoRA, a tuned one, and full fine-tuning; a rate is tried once."""
    s = study.settings
    found = [arms.lora(8), arms.FULL]
    study.tune(size, lesson, found, min(s.steps, s.tuning_steps), runs=1)
    recipe = Recipe.even(s.steps, BATCH)
    return [
        study.untaught(size, lesson),
        *study.taught(size, lesson, [*found, arms.original(8)], recipe),
    ]


def _questions(study: Study, size: str, taught: Lessons, name: str) -> Rows:
    """Open or medical questions: the study's LoRA, a tuned one, and full fine-tuning, on all bases."""
    s, lesson = study.settings, taught.of(name)
    found = [arms.lora(8), arms.FULL]
    study.tune(size, lesson, found, s.open_steps)
    rows = study.taught(size, lesson, [*found, arms.original(8)], Recipe.even(s.open_steps, BATCH), speaks=True)
    return [study.untaught(size, lesson), *rows]


_PARTS = {
    "arms": _arms,
    "others": _others,
    "study": _the_studys,
    "batch": _smaller_batch,
    "longer": _longer,
    "converged": _converged,
    "doses": _doses,
    "control": _control,
    OPEN: functools.partial(_questions, name=OPEN),
    MEDICAL: functools.partial(_questions, name=MEDICAL),
    "sizes": _sizes,
}


def of_items(tokenizer, settings: Settings) -> Lesson:
    """All kinds."""
    return lessons.of_items(material.of_items(tokenizer, settings))


def of_dose(tokenizer, settings: Settings, count: int) -> Lesson:
    """The first `count` kinds, with as many items of each as there are of it among all."""
    fewer = dataclasses.replace(
        settings, items=settings.items * count // len(ORDER), tuning=settings.tuning * count // len(ORDER)
    )
    return lessons.of_items(material.of_items(tokenizer, fewer, ORDER[:count]), f"{count} kinds")
