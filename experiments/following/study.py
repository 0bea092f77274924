"""S4: full fine-tuning as a positive control, and what LoRA makes of the same lesson, arm by arm.

Every arm of a kind is one program for all ranks, rates and seeds, and for bases that train one after the other; a second one where several train
at once. Rates are found on tuning items of the first base; held-out items choose nothing. The base is the unit where a claim is about models.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import chex
import jax
import numpy as np

from experiments.common import devices, phases, tuning
from experiments.common.errors import UserError
from experiments.common.recording import RunFolder, slug
from experiments.following import arms, earlier, said
from experiments.following.arms import Arm, Kind
from experiments.following.earlier import NONE, Earlier
from experiments.following.lessons import TUNING, Lesson
from experiments.following.parts import Part
from experiments.following.program import Outcome, Program, Recipe
from experiments.following.settings import BATCH, Settings
from experiments.lm.speaker import Base, Voice
from lora_jax import checkpoint
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

    def __init__(self, folder: RunFolder, settings: Settings, material: Material, before: Earlier = NONE):
        """Goes on from what an earlier run has told, `before`: its rates, and its rows of the first bases."""
        self.folder, self.settings, self.material, self.before = folder, settings, material, before
        self.tuned = {(line["size"], line["lesson"], line["arm"]): dict(line) for line in before.tuning}
        self.outputs: dict[str, list[str]] = dict(before.outputs)
        self.is_compared = False  # what is taught now, with rows of an earlier run
        self.weights: dict[str, dict[str, str]] = {}
        self.lessons: dict[str, str] = {}
        self._begun: dict[tuple[str, int], Any] = {}
        self._programs: dict[tuple[CausalLM, Kind, Recipe], Program] = {}

    def program(self, base: Base, kind: Kind, recipe: Recipe) -> Program:
        """One for all bases of one model."""
        key = (base.model, kind, recipe)
        if key not in self._programs:
            self._programs[key] = Program(*key)
        return self._programs[key]

    def base(self, size: str, number: int) -> Base:
        """One that no arm may move; a base that nothing asks for is not trained."""
        found = self.material.bases[size][number]
        if (size, number) not in self._begun:
            self._begun[size, number] = jax.tree.map(np.asarray, found.params)
            self.weights.setdefault(size, {})[str(number)] = checkpoint.fingerprint(found.params)
        return found

    def _require_same_bases(self, size: str, wanted: Iterable[int], what: str) -> None:
        """UserError where arms are compared with rows of an earlier run, and a base is not the one that was taught there."""
        then = self.before.weights.get(size, {})
        for number in wanted if self.is_compared else ():
            if number < self.before.bases:
                self.base(size, number)
                if then.get(str(number)) != self.weights[size][str(number)]:
                    why = "has other weights here" if str(number) in then else "has weights that were not noted"
                    raise UserError(
                        f"--onto: {what} is compared with rows of base {number}, which {why}; train these parts in one run, without --onto."
                    )

    def note(self, lesson: str, digest: str) -> None:
        """A lesson's digest, for who goes on from this run, unless rows of a lesson are there whose own was not noted.

        Raises:
          UserError: where an earlier run taught another lesson of this name.
        """
        self.before.require_lesson(lesson, digest)
        if lesson in self.before.lessons or not self.before.has(lesson):
            self.lessons[lesson] = digest

    def require_unmoved(self) -> None:
        """AssertionError where a base is not bit for bit what it was."""
        now = {(size, number): self.material.bases[size][number].params for size, number in self._begun}
        chex.assert_trees_all_equal(now, self._begun)

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
        found = [self.base(size, number) for number in bases]
        params, judge = [base.params for base in found], dict(lesson.judged) if judged else {}
        program = self.program(found[0], kind, recipe)
        return program.train(self.folder, phase, params, members, lesson.train, follow, judge)

    def _of_bases(
        self,
        phase: str,
        size: str,
        wanted: Sequence[int],
        lesson: Lesson,
        kind: Kind,
        recipe: Recipe,
        members: list[Member],
    ) -> list[Outcome]:
        """One for each of the bases. Where one of them would leave devices idle, several train at once."""

        def named(some: Sequence[int]) -> str:
            return f"{phase}, {'base' if len(some) == 1 else 'bases'} {' and '.join(map(str, some))}"

        def is_alone(base: int) -> bool:
            return phases.is_begun(self.folder, named([base]))

        outs = []
        for some in bases_at_once(wanted, max(1, _devices() // len(members)), is_alone):
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
        """A row for each arm and end at which items are judged, of all bases and seeds; bases that an earlier run has taught are in its rows.

        Args:
          rates_of: the lesson whose rates are taken, by default its own.
          speaks: whether what each base's first model says to the prompts is counted.
          shows: whether what the first model says is kept for people to read; it is of all that speak.
        """
        self.note(lesson.name, lesson.digest)
        rows, called = [], name or lesson.name
        count = len(self.material.bases[size]) if bases is None else bases
        for together in grouped(found):
            told = {arm.name: self.before.of(called, size, arm.name, recipe.asked) for arm in together}
            rates = [self.rate(size, rates_of or lesson, arm) for arm in together]
            for arm, rate in zip(together, rates, strict=True):
                earlier.require_arm(told[arm.name], rate, recipe.ends, recipe.batch)
            known = earlier.known(told)
            made = self._taught(
                called, size, lesson, together, rates, recipe, range(known, count), seeds, speaks=speaks, shows=shows
            )
            for arm in together:
                rows += earlier.continued(told[arm.name] if known else [], made.get(arm.name, []))
        return rows

    def _taught(
        self, called: str, size: str, lesson: Lesson, together: Sequence[Arm], rates: Sequence[float], recipe: Recipe, wanted: Sequence[int],
        seeds: int, *, speaks: bool, shows: bool,
    ) -> dict[str, list[dict[str, Any]]]:  # fmt: skip
        """The rows of each arm of a group that trains together, of the bases that are wanted."""
        if not wanted:
            return {}
        members = [arm.member(rate, seed) for arm, rate in zip(together, rates, strict=True) for seed in range(seeds)]
        phase, rows = f"{called} {size} {_name(together)}", {}
        self._require_same_bases(size, wanted, phase)
        trained = self._of_bases(phase, size, wanted, lesson, together[0].kind, recipe, members)
        outs = dict(zip(wanted, trained, strict=True))
        for number, (arm, rate) in enumerate(zip(together, rates, strict=True)):
            of_arm = range(number * seeds, (number + 1) * seeds)
            more = {
                "name": called,
                "size": size,
                "arm": arm.name,
                "rank": arm.rank or None,
                "rate": rate,
                "runs": self._runs(outs),
            }
            rows[arm.name] = [more | _row(lesson, end, outs, of_arm, recipe) for end in recipe.asked]
            voices = self._voices(size, arm, recipe, {base: out.trees[of_arm[0]] for base, out in outs.items()})
            what = f"{called}: {arm.name}"
            if speaks or shows:
                self._show(what, size, voices)
            if speaks:
                rows[arm.name][-1]["said"] = self._counted(what, size, voices)
        return rows

    def _voices(self, size: str, arm: Arm, recipe: Recipe, trees: Mapping[int, dict[str, Any]]) -> dict[int, Voice]:
        """Of each base's model."""
        first = self.base(size, next(iter(trees)))
        through = self.program(first, arm.kind, recipe).module if arm.kind.targets else None
        return {base: Voice(tree, through) for base, tree in trees.items()}

    def untaught(self, size: str, lesson: Lesson, *, speaks: bool = False) -> dict[str, Any]:
        """The row of the bases themselves."""
        self.note(lesson.name, lesson.digest)
        told = self.before.of(lesson.name, size, "base", (0,))
        known, count = earlier.known({"base": told}), len(self.material.bases[size])
        if known >= count:
            return dict(told[0])
        self._require_same_bases(size, range(known, count), "what a base has right")
        bases = {number: self.base(size, number) for number in range(known, count)}
        program = self.program(bases[known], arms.FULL.kind, Recipe((1,), BATCH))
        found = [
            {part: program.scored([base.params], rows) for part, rows in lesson.judged.items()}
            for base in bases.values()
        ]
        general = [
            float(one.nats.sum() / one.tokens.sum())
            for one in (program.scored([base.params], self.material.general) for base in bases.values())
        ]
        row = {
            "name": lesson.name, "size": size, "arm": "base", "steps": 0, "units": [[number, 0] for number in bases],
            "general_before": general, **lesson.told([(one, 0) for one in found]), "runs": self._runs(bases),
        }  # fmt: skip
        if speaks:
            voices = {number: Voice(base.params) for number, base in bases.items()}
            self._show("base", size, voices)
            row["said"] = self._counted("base", size, voices)
        return earlier.continued(told, [row])[0]

    def _runs(self, bases: Iterable[int]) -> list[int]:
        """Which run taught each base: this one, which comes after those that it goes on from."""
        return [len(self.before.runs) for _ in bases]

    def _show(self, what: str, size: str, voices: Mapping[int, Voice]) -> None:
        """Of the first base; where an earlier run taught it, what it kept."""
        if 0 in voices:
            self.outputs[f"{size}, {what}"] = self._once(
                f"shown {size} {what}", lambda: said.outputs(self.base(size, 0), voices[0], self.material.shown)
            )

    def _counted(self, what: str, size: str, voices: Mapping[int, Voice]) -> list[dict[str, dict[str, float]]]:
        return [
            self._once(
                f"counted {size} {what}, base {number}",
                functools.partial(said.rates, self.base(size, number), voice, self.material.prompts),
            )
            for number, voice in voices.items()
        ]

    def _once(self, what: str, make: Callable[[], Any]) -> Any:
        """What is kept beside the saves of training, and goes with them: a run that goes on with more parts asks no model again."""
        return self.folder.once(f"{phases.SAVES}/said/{slug(what)}.json", make)


def _devices() -> int:
    """That share members."""
    return sharing_members(devices.mesh())


def bases_at_once(wanted: Sequence[int], most: int, is_alone: Callable[[int], bool]) -> list[list[int]]:
    """Groups of at most `most`. A base that an earlier run trained alone, being its last, stays alone.

    >>> bases_at_once(range(5), 2, lambda base: False)
    [[0, 1], [2, 3], [4]]
    >>> bases_at_once(range(5), 2, lambda base: base == 2)
    [[0, 1], [2], [3, 4]]
    """
    found: list[list[int]] = []
    for base in wanted:
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


def _row(
    lesson: Lesson, end: int, outs: Mapping[int, Outcome], of_arm: Sequence[int], recipe: Recipe
) -> dict[str, Any]:
    """Units in the order of bases, of which `outs` are, and of seeds within."""
    at = recipe.ends.index(end) + 1
    runs = [(out, m) for out in outs.values() for m in of_arm]
    one = next(iter(outs.values()))

    def curve(name: str, what: str) -> list[list[float]]:
        return [out.curves[name][what][: at + 1, m].round(4).tolist() for out, m in runs]

    return {
        "parameters": one.parameters[of_arm[0]], "batch": recipe.batch, "steps": end, "ends": list(recipe.ends[:at]),
        "seconds_per_step": float(np.median([out.seconds_per_step for out in outs.values()])),
        "units": [[base, seed] for base in outs for seed in range(len(of_arm))],
        **lesson.told([(out.judged[end], m) for out, m in runs]),
        "curves": {"right": curve(TUNING, "right"), "nats": curve(TUNING, "nats"), GENERAL: curve(GENERAL, "nats")},
        "train_loss": [out.train_loss[:at, m].round(4).tolist() for out, m in runs],
    }  # fmt: skip
