"""S4: full fine-tuning as a positive control, and what LoRA makes of the same items, arm by arm.

Every arm of a kind is one program for all ranks, rates, seeds and bases. Rates are found on tuning items of the first base; held-out items choose
nothing. The base is the unit where a claim is about models.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.common import tuning
from experiments.common.items import packed
from experiments.common.recording import RunFolder
from experiments.following import arms
from experiments.following.arms import Arm, Kind
from experiments.following.material import Checkable
from experiments.following.parts import Part
from experiments.following.program import Outcome, Program, Recipe, Scored
from experiments.following.settings import BATCH, SMALL_BATCH, Settings
from experiments.lm.speaker import Base
from lora_jax.sweep import Member

GENERAL = "general text"
TUNING = "tuning items"
TUNING_SEED = 1000
AT_ONCE = 16  # the largest rank that smaller ones are padded to: of a larger one each would pay the price


@dataclasses.dataclass(frozen=True, eq=False)
class Material:
    """`bases` size -> those of its seeds; all have one tokenizer. `general` is text to forget."""

    bases: Mapping[str, Sequence[Base]]
    items: Checkable
    general: Part


class Study:
    """Programs, rates that were found, and one method per part."""

    def __init__(self, folder: RunFolder, settings: Settings, material: Material):
        self.folder, self.settings, self.material = folder, settings, material
        self.tuned: dict[tuple[str, str], dict[str, Any]] = {}
        self._programs: dict[tuple[str, Kind, Recipe], Program] = {}

    def program(self, size: str, kind: Kind, recipe: Recipe) -> Program:
        """One for all bases of a size."""
        key = (size, kind, recipe)
        if key not in self._programs:
            self._programs[key] = Program(self.material.bases[size][0].model, kind, recipe)
        return self._programs[key]

    @property
    def recipe(self) -> Recipe:
        """Of every arm but the study's own."""
        return Recipe.even(self.settings.steps, BATCH)

    # ---- rates

    def tune(self, size: str, found: Sequence[Arm]) -> None:
        """The rate of each arm without one, on the tuning items of the first base; arms of a kind and of like rank in one group."""
        for together in grouped([arm for arm in found if arm.rate is None and (size, arm.name) not in self.tuned]):
            by_rank = {arm.rank: arm for arm in together}
            rates = self.settings.lora_rates if together[0].kind.targets else self.settings.full_rates
            name = " and ".join(arm.name for arm in together)

            def scored(turn: int, cells, by_rank=by_rank, kind=together[0].kind, name=name) -> list[list[float | None]]:
                seeds = range(TUNING_SEED, TUNING_SEED + self.settings.tuning_seeds)
                members = [by_rank[rank].member(rate, seed) for rank, rate in cells for seed in seeds]
                recipe = Recipe((self.settings.steps,), BATCH)
                scores = _scores(self._train(f"tune {size} {name}, {turn}", size, 0, kind, recipe, members, {}))
                return [scores[i : i + len(seeds)] for i in range(0, len(scores), len(seeds))]

            for line in tuning.search(tuple(by_rank), rates, scored, self.settings.widenings, name):
                arm = by_rank[line["rank"]].name
                self.tuned[size, arm] = {"size": size, "arm": arm, **line}

    def rate(self, size: str, arm: Arm) -> float:
        """Given, or found."""
        return arm.rate if arm.rate is not None else self.tuned[size, arm.name]["best"]

    # ---- runs

    def _train(
        self,
        phase: str,
        size: str,
        base: int,
        kind: Kind,
        recipe: Recipe,
        members: list[Member],
        judge: Mapping[str, Part],
    ) -> Outcome:
        items = self.material.items
        follow = {TUNING: items.tuning, GENERAL: self.material.general}
        params = self.material.bases[size][base].params
        return self.program(size, kind, recipe).train(
            self.folder, phase, params, members, items.train, follow, dict(judge)
        )

    def taught(
        self, size: str, found: Sequence[Arm], recipe: Recipe, seeds: int, name: str = ""
    ) -> list[dict[str, Any]]:
        """A row for each arm and end at which items are judged, of all bases and seeds."""
        self.tune(size, found)
        rows = []
        for together in grouped(found):
            members = [arm.member(self.rate(size, arm), seed) for arm in together for seed in range(seeds)]
            phase = f"{name}{size} {' and '.join(arm.name for arm in together)}"
            outs = [
                self._train(
                    f"{phase}, base {base}", size, base, together[0].kind, recipe, members, self.material.items.judged
                )
                for base in range(len(self.material.bases[size]))
            ]
            for number, arm in enumerate(together):
                of_arm = range(number * seeds, (number + 1) * seeds)
                rows += [self._row(size, arm, end, outs, of_arm, recipe) for end in (recipe.judged or recipe.ends[-1:])]
        return rows

    def _row(
        self, size: str, arm: Arm, end: int, outs: Sequence[Outcome], of_arm: Sequence[int], recipe: Recipe
    ) -> dict[str, Any]:
        """Units in the order of bases, and of seeds within."""
        at = recipe.ends.index(end) + 1
        runs = [(out, m) for out in outs for m in of_arm]

        def curve(name: str, what: str) -> list[list[float]]:
            return [out.curves[name][what][: at + 1, m].tolist() for out, m in runs]

        return {
            "size": size, "arm": arm.name, "rank": arm.rank or None, "rate": self.rate(size, arm),
            "parameters": outs[0].parameters[of_arm[0]], "batch": recipe.batch, "steps": end, "ends": list(recipe.ends[:at]),
            "seconds_per_step": float(np.median([out.seconds_per_step for out in outs])),
            "units": [[base, seed] for base in range(len(outs)) for seed in range(len(of_arm))],
            **_judged([(out.judged[end], m) for out, m in runs]),
            "curves": {"tuning": curve(TUNING, "right"), "tuning_nats": curve(TUNING, "nats"), "general": curve(GENERAL, "nats")},
            "train_loss": [out.train_loss[:at, m].tolist() for out, m in runs],
        }  # fmt: skip

    def untaught(self, size: str) -> dict[str, Any]:
        """The row of the bases themselves."""
        program = self.program(size, arms.FULL.kind, self.recipe)
        judged = self.material.items.judged.items()
        found = [
            {part: program.scored([base.params], rows) for part, rows in judged} for base in self.material.bases[size]
        ]
        units = [[base, 0] for base in range(len(found))]
        return {"size": size, "arm": "base", "steps": 0, "units": units, **_judged([(one, 0) for one in found])}

    def of_the_study(self, size: str) -> list[dict[str, Any]]:
        """Its LoRA at each of its ranks after each number of epochs; and with a smaller batch, at equal epochs and at equal updates."""
        s, rows = self.settings, len(self.material.items.train.owners)
        per_epoch = rows // BATCH
        recipe = Recipe(
            tuple(per_epoch * epoch for epoch in s.epochs), BATCH, tuple(per_epoch * epoch for epoch in s.epochs)
        )
        found = self.taught(size, [arms.original(rank) for rank in s.study_ranks], recipe, 1)
        few = s.epochs[:2]
        equal = tuple(sorted({*(per_epoch * epoch for epoch in few), *(rows // SMALL_BATCH * epoch for epoch in few)}))
        small = Recipe(equal, SMALL_BATCH, equal)
        return found + self.taught(size, [arms.original(s.study_ranks[0])], small, 1, "small batch, ")


def grouped(found: Sequence[Arm]) -> list[list[Arm]]:
    """Arms that one program trains without much padding: of one kind, and all of ranks up to AT_ONCE or beyond."""
    by_kind: dict[tuple[Kind, bool], list[Arm]] = {}
    for arm in found:
        by_kind.setdefault((arm.kind, arm.rank > AT_ONCE), []).append(arm)
    return list(by_kind.values())


def _judged(runs: Sequence[tuple[Mapping[str, Scored], int]]) -> dict[str, Any]:
    """Which items each run has right, a bit each, and its nats a token."""

    def nats(scored: Scored, member: int) -> float:
        return float(scored.nats[member].sum() / scored.tokens[member].sum())

    return {
        "right": {name: packed([found[name].right[m] for found, m in runs]) for name in runs[0][0]},
        "nats": {name: [nats(found[name], m) for found, m in runs] for name in runs[0][0]},
    }


def _scores(out: Outcome) -> list[float | None]:
    """The share of tuning items that each member has right; None where training diverged."""
    of = out.curves[TUNING]
    return [
        float(share) if np.isfinite(nats) else None for share, nats in zip(of["right"][-1], of["nats"][-1], strict=True)
    ]
