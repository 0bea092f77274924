"""What an earlier run has told of S4, which a run that goes on from it does not teach again. Nothing here imports jax.

A row is an arm after so many updates, of the first bases. More bases add units to it: what a row says of each unit, or of each base, is a list.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.common.errors import UserError
from experiments.following.read import Row, bases_of
from experiments.following.settings import PARTS, TEXT, Settings

COMPARED = ("arms", "others", "study", "batch")  # parts whose rows are compared with each other: all of as many bases
SAME_BASES = (*COMPARED, "longer")  # and those whose bases must be the very ones
OF_UNITS = ("units", "right", "share", "nats", "asked", "curves", "train_loss", "general_before", "said", "runs")
ANEW = "run without --onto"
ARM = ("part", "name", "size", "arm")


@dataclasses.dataclass(frozen=True, eq=False)
class Earlier:
    """`rows`, `tuning` and `outputs` as the summary has them; `about` is what it says of items and prompts, to be compared with today's.

    `runs` are the environments that the rows came from, to which each row's "runs" points, base by base; `weights` size -> number of a base -> its
    fingerprint, and `lessons` name -> digest, where they were noted; `checksum` is the summary's.
    """

    rows: tuple[Row, ...] = ()
    tuning: tuple[Mapping[str, Any], ...] = ()
    outputs: Mapping[str, list[str]] = dataclasses.field(default_factory=dict)
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    runs: tuple[Mapping[str, Any], ...] = ()
    questions: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    weights: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    lessons: Mapping[str, str] = dataclasses.field(default_factory=dict)
    parts: tuple[str, ...] = ()
    bases: int = 0
    many_bases: int = 0
    sizes: tuple[str, ...] = ()
    checksum: str = ""

    def of(self, name: str, size: str, arm: str, ends: Sequence[int]) -> list[Row]:
        """The rows of an arm at these ends, or none.

        Raises:
          UserError: where it is there at other ends: what is compared with it is of the earlier run's bases and items.
        """
        found = {row["steps"]: row for row in self.rows if (row["name"], row["size"], row["arm"]) == (name, size, arm)}
        if found and not found.keys() >= set(ends):
            raise UserError(
                f"--onto: {arm} was measured after {sorted(found)} updates, and would be after {list(ends)} now; {ANEW}."
            )
        return [found[end] for end in ends] if found else []

    def has(self, lesson: str) -> bool:
        """Whether a lesson of this name was taught: rows under its name are of no other, and whatever has another name is of all items."""
        return any(row["name"] == lesson for row in self.rows)

    def without(self, part: str) -> "Earlier":
        """Where a part's lesson is another now."""
        return dataclasses.replace(
            self,
            rows=tuple(row for row in self.rows if row["part"] != part),
            tuning=tuple(line for line in self.tuning if line["lesson"] != part),
            lessons={name: digest for name, digest in self.lessons.items() if name != part},
        )

    def beside(self, rows: Sequence[Row]) -> list[Row]:
        """Those of arms that are not among the rows of a later run: of parts that it left out."""
        there = set(map(arm_of, rows))
        return [row for row in self.rows if arm_of(row) not in there]

    def weights_beside(self, weights: Mapping[str, Mapping[str, str]], size: str) -> dict[str, dict[str, str]]:
        """The fingerprints of a later run's bases, and of these. A base of this size that was taught here is told by what was noted here, or not at
        all: another may have been trained in its place since.

        >>> Earlier(bases=2, weights={"1M": {"1": "b"}}).weights_beside({"1M": {"0": "x", "1": "x", "2": "c"}}, "1M")
        {'1M': {'2': 'c', '1': 'b'}}
        """
        found = {of: dict(noted) for of, noted in weights.items()}
        found[size] = {number: one for number, one in found.get(size, {}).items() if int(number) >= self.bases}
        for of, noted in self.weights.items():
            found.setdefault(of, {}).update(noted)
        return {of: noted for of, noted in found.items() if noted}

    def require_same(self, about: Mapping[str, Any]) -> None:
        """UserError where the items that are measured, or the prompts, are others now."""
        for name in self.about:
            if self.about[name] != about[name]:
                raise UserError(
                    f"--onto: {name} of that run and of this one differ, so its rows cannot be continued; {ANEW}."
                )

    def require_lesson(self, name: str, digest: str) -> None:
        """UserError where a lesson is another now, to learn from or to be measured on."""
        if self.lessons.get(name, digest) != digest:
            raise UserError(
                f"--onto: that run taught other items under the name of {name!r}, so its rows cannot be continued; {ANEW}."
            )


NONE = Earlier()


def arm_of(row: Row) -> tuple[Any, ...]:
    """What tells a row from those of other arms."""
    return tuple(row[name] for name in ARM)


def continued(before: Sequence[Row], after: Sequence[Row]) -> list[Row]:
    """The rows of an arm: of an earlier run, of this one, or of both."""
    return list(map(joined, before, after)) if before and after else [*before, *after]


def joined(before: Row, after: Row) -> Row:
    """A row of the first bases and one of those that follow, as one; the time of a step stays the earlier one's.

    >>> before, after = {"steps": 8, "units": [[0, 0]], "nats": {"words": [0.5]}}, {"steps": 8, "units": [[1, 0]], "nats": {"words": [0.25]}}
    >>> joined(before, after)
    {'steps': 8, 'units': [[0, 0], [1, 0]], 'nats': {'words': [0.5, 0.25]}}
    """
    if twice := [unit for unit in after["units"] if unit in before["units"]]:
        raise ValueError(f"{before['arm']}: base and seed {twice[0]} are there twice")
    if different := (before.keys() ^ after.keys()) - {"part"}:
        raise ValueError(f"{before['arm']}: {sorted(different)} is told of some bases alone")
    same = [name for name in after if name not in (*OF_UNITS, "seconds_per_step")]
    if changed := [name for name in same if before[name] != after[name]]:
        raise ValueError(f"{before['arm']}: {changed[0]} was {before[changed[0]]!r} and is {after[changed[0]]!r}")
    return {name: _both(before[name], after[name]) if name in OF_UNITS else value for name, value in before.items()}


def _both(before: Any, after: Any) -> Any:
    if isinstance(before, Mapping):
        if before.keys() != after.keys():
            raise ValueError(f"{sorted(before)} was told, and now {sorted(after)}")
        return {name: _both(value, after[name]) for name, value in before.items()}
    return [*before, *after]


def require_arm(rows: Sequence[Row], rate: float | None, ends: Sequence[int], batch: int) -> None:
    """UserError where an arm would be taught otherwise than its rows were."""
    for row in rows:
        then = row.get("rate"), row["ends"], row["batch"]
        now = rate, [end for end in ends if end <= row["steps"]], batch
        if then != now:
            raise UserError(
                f"--onto: {row['arm']} had (rate, measured after, batch) {then}, and has {now} now; {ANEW}."
            )


def extended(settings: Settings, before: Earlier) -> tuple[Settings, Settings]:
    """The settings of both runs together, and those of the one that is asked for: with its parts, and those that are compared with them.

    >>> both, now = extended(Settings(parts=("arms", "open"), bases=3), Earlier(parts=("arms", "others", "doses"), bases=5))
    >>> both.parts, both.bases, now.parts, now.bases
    (('arms', 'others', 'open', 'doses'), 5, ('arms', 'others', 'open'), 3)

    Raises:
      UserError: for fewer bases than the rows have that a new part is compared with.
    """
    compared = [part for part in before.parts if part in COMPARED]
    new = [part for part in settings.parts if part in COMPARED and part not in compared]
    if new and settings.bases < before.bases:
        raise UserError(
            f"--bases={settings.bases}: the part {new[0]} is compared with parts that have {before.bases} bases; name as many."
        )
    parts = tuple(part for part in PARTS if part in (*settings.parts, *compared))
    every = tuple(part for part in PARTS if part in (*parts, *before.parts))
    many = [of.many_bases for of in (settings, before) if "longer" in of.parts] or [
        settings.many_bases,
        before.many_bases,
    ]
    both = dataclasses.replace(
        settings,
        parts=every,
        bases=max(settings.bases, before.bases),
        many_bases=max(many),
        other_sizes=_sizes(settings, before),
    )
    return both, dataclasses.replace(settings, parts=parts)


def _sizes(settings: Settings, before: Earlier) -> tuple[str, ...]:
    """Of both runs, those of the part of that name, smallest first; what a preset has where neither runs it."""
    now = settings.other_sizes if "sizes" in settings.parts else ()
    found = {*now, *before.sizes}
    return tuple(size for size in TEXT if size in found) or settings.other_sizes


def told(settings: Settings, now: Settings, before: Earlier) -> str:
    """What a run that goes on is about to do, in one line."""
    also = [part for part in now.parts if part not in settings.parts]
    more = (
        f"; {', '.join(also)}, which are compared with them, are brought to as many bases"
        if also and now.bases > before.bases
        else ""
    )
    return f"onto: {len(before.rows)} rows of up to {before.bases} bases are there; asked for: {', '.join(settings.parts)}, {now.bases} bases{more}"


def known(rows: Mapping[str, Sequence[Row]]) -> int:
    """How many first bases the rows of all these arms have."""
    return min((bases_of(row) for of_arm in rows.values() for row in of_arm), default=0) if all(rows.values()) else 0
