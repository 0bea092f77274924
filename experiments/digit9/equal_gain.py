"""Two ways to fine-tune at the same gain on the digit: does one do less damage elsewhere, the same, or more? Paired by seed."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.common.statistics import estimate, text
from experiments.ledger.inference import Fact, alike, equivalent, holm, less, more

SHARE = 0.2  # damage is the same within a fifth,
FLOOR = 9.0  # or within 9 errors, a thousandth of the other images of the test set
LABELS = ("less", "same", "more", "not settled")
UNTESTED = Fact("", None, "fewer than 2 seeds get there")


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Errors added by `name` and by what it is held against; `reached` of `of` seeds get to that gain on both ways."""

    name: str
    added: tuple[float, ...]
    reference: tuple[float, ...]
    of: int
    difference: Fact
    same: Fact

    @property
    def reached(self) -> int:
        return len(self.added)

    @property
    def label(self) -> str:
        """One of LABELS; what is the same within the margin is so, even where a difference is found."""
        if self.same.true:
            return "same"
        return {True: "less", False: "more", None: "not settled"}[self.difference.true]

    @property
    def minus(self) -> dict[str, Any] | None:
        """The paired difference; None where no seed gets there."""
        return estimate(np.subtract(self.added, self.reference)) if self.added else None

    def __str__(self) -> str:
        if self.reached < 2:
            return f"{self.name} not settled (both get there in {self.reached} of {self.of} seeds)"
        seeds = f", {self.reached} of {self.of} seeds" if self.reached < self.of else ""
        shown = f"{np.mean(self.added):.0f} and {np.mean(self.reference):.0f}, difference {self.difference.shown}; {self.same.shown}"
        return f"{self.name} {self.label} ({shown}{seeds})"


def compared(name: str, a: Sequence[float | None], b: Sequence[float | None]) -> Comparison:
    """Over the seeds that have both numbers.

    >>> compared("a", [50.0, 61.0, 70.0], [100.0, 110.0, 121.0]).label
    'less'
    """
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None]
    x, y = ([float(pair[i]) for pair in pairs] for i in (0, 1))
    if len(pairs) < 2:
        return Comparison(name, tuple(x), tuple(y), len(a), UNTESTED, UNTESTED)
    return Comparison(name, tuple(x), tuple(y), len(a), less(f"{name} adds less", x, y, digits=0), _same(name, x, y))


def _same(name: str, x: list[float], y: list[float]) -> Fact:
    """Within the share, or within the floor."""
    of_ratio, of_errors = alike("", x, y, SHARE), equivalent("", x, y, FLOOR, digits=1)
    true = True if of_ratio.true or of_errors.true else of_ratio.true
    shown = of_errors.shown if of_errors.true and not of_ratio.true else of_ratio.shown
    return Fact(f"{name} adds as much, within {100 * SHARE:.0f} % or {FLOOR:.0f} errors", true, shown)


def beyond(said: str, one: Comparison, side: str) -> Fact:
    """Whether it adds more, or less (`side`), than the other by over the share, as a ratio of means; a difference alone says nothing of that.

    >>> close = compared("a", [108.0, 110.0, 109.0, 110.0, 130.0], [100.0, 98.0, 100.0, 101.0, 99.0])
    >>> close.label, beyond("by over a fifth", close, "more").true
    ('more', None)
    """
    if one.reached < 2:
        return Fact(said, None, f"{one}")
    test, factor = {"more": (more, 1 + SHARE), "less": (less, 1 - SHARE)}[side]
    found = test(said, one.added, factor * np.asarray(one.reference))
    return Fact(said, False if one.same.true else found.true, f"{one}; p = {found.p:.2g} for a ratio of {factor:g}")


def family(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The same, with their differences' level shared (Holm)."""
    shared = holm([one.difference for one in comparisons])
    return [dataclasses.replace(one, difference=fact) for one, fact in zip(comparisons, shared, strict=True)]


def at_half(rows: Sequence[dict[str, Any]], study: dict[str, Any]) -> list[Comparison]:
    """Rows against the study's setting where half of the 9s are mended; one family."""
    return family([compared(row["name"], half(row), half(study)) for row in rows])


def at_dose(rows: Sequence[dict[str, Any]]) -> list[Comparison]:
    """Rows against the study's setting at the largest gain that both have; one family."""
    return family(
        [compared(row["name"], row["by_seed"]["added_at_dose"], row["by_seed"]["study_added_at_dose"]) for row in rows]
    )


def half(row: dict[str, Any]) -> list[float | None]:
    """Errors a row has added where half of the 9s are mended, a number or None of each seed."""
    return row["at_half"]["added_by_seed"]


def pooled(rows: Sequence[dict[str, Any]]) -> list[float | None]:
    """The mean over rows of `half`, of each seed that gets there in all of them."""
    of_seeds = zip(*(half(row) for row in rows), strict=True)
    return [None if None in values else float(np.mean(values)) for values in of_seeds]


def told(row: dict[str, Any]) -> str:
    """`108 [80, 137]`, and how many seeds get there, where not all do."""
    found = row["at_half"]
    if not found["reached"]:
        return f"reached by 0 of {found['of']} seeds"
    seeds = f" ({found['reached']} of {found['of']} seeds)" if found["reached"] < found["of"] else ""
    return text(found["added"], 0) + seeds
