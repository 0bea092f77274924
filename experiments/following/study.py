"""S4: full fine-tuning as a positive control, and what LoRA makes of the same lesson, arm by arm.

Every arm of a kind is one program for all ranks, rates and seeds, and for bases that train one after the other; a second one where several train
at once. Rates are found on tuning items of the first base; held-out items choose nothing. The base is the unit where a claim is about models.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.common import devices, phases, tuning
from experiments.common.recording import RunFolder, slug
from experiments.following import arms, said
from experiments.following.arms import Arm, Kind
from experiments.following.lessons import TUNING, Lesson
from experiments.following.parts import Part
from experiments.following.program import Outcome, Program, Recipe
from experiments.following.settings import BATCH, Settings
from experiments.lm.speaker import Base, Voice
from lora_jax.mesh import sharing_members
from lora_jax.models.causal_lm import CausalLM
from lora_jax.sweep import Member

GENERAL = "general"
TUNING_SEED = 1000
AT_ONCE = 16  # the largest rank that smaller ones are padded to: of a larger one each would pay the price


@dataclasses.dataclass(frozen=True, eq=False)
class Material:
    """`bases` size -> those of its seeds; all have one tokenizer. `general` is text to forget; `prompts` are answered and counted, `shown` are
    answered for people to read."""

    bases: Mapping[str, Sequence[Base]]
    general: Part
    prompts: tuple[str, ...]
    shown: tuple[str, ...]


class Study:
    """Programs, the rates that were found, and the rows of what was taught."""

    def __init__(self, folder: RunFolder, settings: Settings, material: Material):
        self.folder, self.settings, self.material = folder, settings, material
        self.tuned: dict[tuple[str, str, str], dict[str, Any]] = {}
        self.outputs: dict[str, list[str]] = {}
        self._programs: dict[tuple[CausalLM, Kind, Recipe], Program] = {}

    def program(self, size: str, kind: Kind, recipe: Recipe) -> Program:
        """One for all bases of one model."""
        key = (self.material.bases[size][0].model, kind, recipe)
        if key not in self._programs:
            self._programs[key] = Program(*key)
        return self._programs[key]

    # ---- rates

    def tune(self, size: str, lesson: Lesson, found: Sequence[Arm], steps: int, *, runs: int | None = None) -> None:
        """The rate of each arm without one, on the first base, by so many runs a rate; arms of a kind and of like rank in one group."""
        runs = runs or self.settings.tuning_seeds
        wanted = [arm for arm in found if arm.rate is None and (size, lesson.name, arm.name) not in self.tuned]
        for together in grouped(wanted):
            by_rank = {arm.rank: arm for arm in together}
            rates = self.settings.lora_rates if together[0].kind.targets else self.settings.full_rates
            name = _name(together)

            def scored(turn: int, cells, by_rank=by_rank, kind=together[0].kind, name=name) -> list[list[float | None]]:
                seeds = range(TUNING_SEED, TUNING_SEED + runs)
                members = [by_rank[rank].member(rate, seed) for rank, rate in cells for seed in seeds]
                phase = f"tune {size} {lesson.name} {name}, round {turn}"
                scores = lesson.scores(
                    self._train(
                        phase, size, [0] * len(members), lesson, kind, Recipe((steps,), BATCH), members, judged=False
                    )
                )
                return [scores[i : i + len(seeds)] for i in range(0, len(scores), len(seeds))]

            lines = (
                [tuning.untuned(rank, rates[0]) for rank in by_rank]
                if len(rates) == 1
                else tuning.search(tuple(by_rank), rates, scored, self.settings.widenings, name, lesson.broken)
            )
            for line in lines:
                arm = by_rank[line["rank"]].name
                self.tuned[size, lesson.name, arm] = {"size": size, "lesson": lesson.name, "arm": arm, **line}

    def rate(self, size: str, lesson: Lesson, arm: Arm) -> float:
        """Given, or found."""
        return arm.rate if arm.rate is not None else self.tuned[size, lesson.name, arm.name]["best"]

    # ---- runs

    def _train(
        self, phase: str, size: str, bases: Sequence[int], lesson: Lesson, kind: Kind, recipe: Recipe, members: list[Member], *, judged: bool
    ) -> Outcome:  # fmt: skip
        """`bases` has the number of each member's."""
        follow = {TUNING: lesson.tuning, GENERAL: self.material.general}
        params = [self.material.bases[size][base].params for base in bases]
        judge = dict(lesson.judged) if judged else {}
        return self.program(size, kind, recipe).train(self.folder, phase, params, members, lesson.train, follow, judge)

    def _of_bases(
        self, phase: str, size: str, count: int, lesson: Lesson, kind: Kind, recipe: Recipe, members: list[Member]
    ) -> list[Outcome]:
        """One for each of the first `count` bases. Where one of them would leave devices idle, several train at once."""

        def named(some: Sequence[int]) -> str:
            return f"{phase}, {'base' if len(some) == 1 else 'bases'} {' and '.join(map(str, some))}"

        def is_alone(base: int) -> bool:
            return phases.is_begun(self.folder, named([base]))

        outs = []
        for some in bases_at_once(count, max(1, _devices() // len(members)), is_alone):
            numbers = [base for base in some for _ in members]
            out = self._train(named(some), size, numbers, lesson, kind, recipe, members * len(some), judged=True)
            outs += [out.of(range(at, at + len(members))) for at in range(0, len(numbers), len(members))]
        return outs

    def taught(
        self,
        size: str,
        lesson: Lesson,
        found: Sequence[Arm],
        recipe: Recipe,
        *,
        seeds: int = 1,
        bases: int | None = None,
        name: str = "",
        rates_of: Lesson | None = None,
        speaks: bool = False,
        shows: bool = False,
    ) -> list[dict[str, Any]]:
        """A row for each arm and end at which items are judged, of all bases and seeds.

        Args:
          rates_of: the lesson whose rates are taken, by default its own.
          speaks: whether what each base's first model says to the prompts is counted.
          shows: whether what the first model says is kept for people to read; it is of all that speak.
        """
        rows = []
        for together in grouped(found):
            rates = [self.rate(size, rates_of or lesson, arm) for arm in together]
            members = [
                arm.member(rate, seed) for arm, rate in zip(together, rates, strict=True) for seed in range(seeds)
            ]
            phase = f"{name or lesson.name} {size} {_name(together)}"
            count = len(self.material.bases[size]) if bases is None else bases
            outs = self._of_bases(phase, size, count, lesson, together[0].kind, recipe, members)
            for number, arm in enumerate(together):
                of_arm = range(number * seeds, (number + 1) * seeds)
                more = {
                    "name": name or lesson.name,
                    "size": size,
                    "arm": arm.name,
                    "rank": arm.rank or None,
                    "rate": rates[number],
                }
                rows += [more | _row(lesson, end, outs, of_arm, recipe) for end in recipe.asked]
                voices = [Voice(out.trees[of_arm[0]], self._through(size, arm, recipe)) for out in outs]
                what = f"{name or lesson.name}: {arm.name}"
                if speaks or shows:
                    self._show(what, size, voices[0])
                if speaks:
                    rows[-1]["said"] = self._counted(what, size, voices)
        return rows

    def _through(self, size: str, arm: Arm, recipe: Recipe):
        return self.program(size, arm.kind, recipe).module if arm.kind.targets else None

    def untaught(self, size: str, lesson: Lesson, *, speaks: bool = False) -> dict[str, Any]:
        """The row of the bases themselves."""
        program, bases = self.program(size, arms.FULL.kind, Recipe((1,), BATCH)), self.material.bases[size]
        found = [{part: program.scored([base.params], rows) for part, rows in lesson.judged.items()} for base in bases]
        general = [
            float(one.nats.sum() / one.tokens.sum())
            for one in (program.scored([base.params], self.material.general) for base in bases)
        ]
        row = {
            "name": lesson.name, "size": size, "arm": "base", "steps": 0, "units": [[base, 0] for base in range(len(bases))],
            "general_before": general, **lesson.told([(one, 0) for one in found]),
        }  # fmt: skip
        if speaks:
            voices = [Voice(base.params) for base in bases]
            self._show("base", size, voices[0])
            row["said"] = self._counted("base", size, voices)
        return row

    def _show(self, what: str, size: str, voice: Voice) -> None:
        base = self.material.bases[size][0]
        self.outputs[f"{size}, {what}"] = self._once(
            f"shown {size} {what}", lambda: said.outputs(base, voice, self.material.shown)
        )

    def _counted(self, what: str, size: str, voices: Sequence[Voice]) -> list[dict[str, dict[str, float]]]:
        return [
            self._once(
                f"counted {size} {what}, base {at}", functools.partial(said.rates, base, voice, self.material.prompts)
            )
            for at, (base, voice) in enumerate(zip(self.material.bases[size], voices, strict=False))
        ]

    def _once(self, what: str, make: Callable[[], Any]) -> Any:
        """What is kept beside the saves of training, and goes with them: a run that goes on with more parts asks no model again."""
        return self.folder.once(f"{phases.SAVES}/said/{slug(what)}.json", make)


def _devices() -> int:
    """That share members."""
    return sharing_members(devices.mesh())


def bases_at_once(count: int, most: int, is_alone: Callable[[int], bool]) -> list[list[int]]:
    """Groups of at most `most`. A base that an earlier run trained alone, being its last, stays alone.

    >>> bases_at_once(5, 2, lambda base: False)
    [[0, 1], [2, 3], [4]]
    >>> bases_at_once(5, 2, lambda base: base == 2)
    [[0, 1], [2], [3, 4]]
    """
    found: list[list[int]] = []
    for base in range(count):
        if not found or len(found[-1]) == most or is_alone(base) or is_alone(found[-1][-1]):
            found.append([])
        found[-1].append(base)
    return found


def grouped(found: Sequence[Arm]) -> list[list[Arm]]:
    """Arms that one program trains without much padding: of one kind, and all of ranks up to AT_ONCE or beyond."""
    by_kind: dict[tuple[Kind, bool], list[Arm]] = {}
    for arm in found:
        by_kind.setdefault((arm.kind, arm.rank > AT_ONCE), []).append(arm)
    return list(by_kind.values())


def _name(together: Sequence[Arm]) -> str:
    return " and ".join(arm.name for arm in together)


def _row(lesson: Lesson, end: int, outs: Sequence[Outcome], of_arm: Sequence[int], recipe: Recipe) -> dict[str, Any]:
    """Units in the order of bases, and of seeds within."""
    at = recipe.ends.index(end) + 1
    runs = [(out, m) for out in outs for m in of_arm]

    def curve(name: str, what: str) -> list[list[float]]:
        return [out.curves[name][what][: at + 1, m].round(4).tolist() for out, m in runs]

    return {
        "parameters": outs[0].parameters[of_arm[0]], "batch": recipe.batch, "steps": end, "ends": list(recipe.ends[:at]),
        "seconds_per_step": float(np.median([out.seconds_per_step for out in outs])),
        "units": [[base, seed] for base in range(len(outs)) for seed in range(len(of_arm))],
        **lesson.told([(out.judged[end], m) for out, m in runs]),
        "curves": {"right": curve(TUNING, "right"), "nats": curve(TUNING, "nats"), GENERAL: curve(GENERAL, "nats")},
        "train_loss": [out.train_loss[:at, m].round(4).tolist() for out, m in runs],
    }  # fmt: skip
