"""What an earlier run has told of S4: a run that goes on from its summary does not teach these bases again. Nothing here imports jax.

A row is an arm after so many updates, of the first bases. More bases add units to it; what a row says of each unit, or of each base, is a list.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from experiments.common.errors import UserError
from experiments.common.recording import read_json, understood
from experiments.following.read import Row
from experiments.following.settings import PARTS, Settings, as_kept

SUMMARY, ENVIRONMENT = "summary.json", "environment.json"
OF_A_RUN = ("parts", "bases", "many_bases")  # settings in which runs of one study differ
COMPARED = ("arms", "others", "study", "batch")  # parts whose rows are compared with each other: all of as many bases
OF_UNITS = ("units", "right", "share", "nats", "asked", "curves", "train_loss", "general_before", "said", "runs")
ABOUT = ("commit", "python", "packages", "device", "platform", "cores")  # of an environment
ADVICE = "name the folder of a run of tiny_lm.py --job=study, or experiments/results/following"


@dataclasses.dataclass(frozen=True, eq=False)
class Earlier:
    """`rows`, `tuning` and `outputs` as the summary has them; `runs` the environments they came from, to which each row's "runs" points, base by
    base; `questions` what was asked in the parts on questions."""

    rows: tuple[Row, ...] = ()
    tuning: tuple[Mapping[str, Any], ...] = ()
    outputs: Mapping[str, list[str]] = dataclasses.field(default_factory=dict)
    runs: tuple[Mapping[str, Any], ...] = ()
    questions: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    kinds: Mapping[str, Sequence[str]] | None = None
    constant: Mapping[str, float] | None = None
    parts: tuple[str, ...] = ()
    bases: int = 0
    many_bases: int = 0
    checksum: str = ""

    def of(self, name: str, size: str, arm: str, ends: Sequence[int], batch: int) -> list[Row]:
        """The rows of an arm at these ends; none unless there are all."""
        found = {row["steps"]: row for row in self.rows if (row["name"], row["size"], row["arm"]) == (name, size, arm)}
        rows = [found[end] for end in ends if end in found and found[end].get("batch", batch) == batch]
        return rows if len(rows) == len(ends) else []

    def without(self, part: str) -> "Earlier":
        """Where a part's lesson is another now."""
        return dataclasses.replace(
            self,
            rows=tuple(row for row in self.rows if row["part"] != part),
            tuning=tuple(line for line in self.tuning if line["lesson"] != part),
        )

    def beside(self, rows: Sequence[Row]) -> list[Row]:
        """Those that are not among the rows of a later run: of parts that it left out."""
        there = set(map(_key, rows))
        return [row for row in self.rows if _key(row) not in there]

    def require_same_items(self, kinds: Mapping[str, Sequence[str]], constant: Mapping[str, float]) -> None:
        """UserError where the items that are measured are others now."""
        for name, then, now in (("kinds", self.kinds, kinds), ("constant", self.constant, constant)):
            if then is not None and json.loads(json.dumps(now)) != then:
                raise UserError(
                    f"--onto: the held-out items are others than that run's ({name} differ), so its rows cannot be continued; run without --onto."
                )


NONE = Earlier()


def _key(row: Row) -> tuple[Any, ...]:
    return row["part"], row["name"], row["size"], row["arm"], row["steps"]


def bases_of(rows: Sequence[Row]) -> int:
    """How many first bases all of the rows have; 0 of no row."""
    return min((len({base for base, _ in row["units"]}) for row in rows), default=0)


def joined(before: Row | None, after: Row) -> Row:
    """A row of the first bases and one of those that follow, as one: what each of them cost in seconds a step stays the earlier one's.

    >>> before, after = {"steps": 8, "units": [[0, 0]], "nats": {"words": [0.5]}}, {"steps": 8, "units": [[1, 0]], "nats": {"words": [0.25]}}
    >>> joined(before, after)
    {'steps': 8, 'units': [[0, 0], [1, 0]], 'nats': {'words': [0.5, 0.25]}}
    """
    if before is None:
        return after
    if twice := [unit for unit in after["units"] if unit in before["units"]]:
        raise ValueError(f"{before['arm']}: base and seed {twice[0]} are there twice")
    different = [
        name for name in before if name not in (*OF_UNITS, "part", "seconds_per_step") and before[name] != after[name]
    ]
    if different:
        raise ValueError(f"{before['arm']}: {different[0]} was {before[different[0]]!r} and is {after[different[0]]!r}")
    return {name: _both(before[name], after[name]) if name in OF_UNITS else value for name, value in before.items()}


def _both(before: Any, after: Any) -> Any:
    if isinstance(before, Mapping):
        return {name: _both(value, after[name]) for name, value in before.items()}
    return [*before, *after]


def read(folder: epath.Path, settings: Settings, data: Mapping[str, Any]) -> Earlier:
    """What a run left in its folder, or the repository keeps of it, for a run with these settings and data.

    Raises:
      UserError: for a folder without such a summary, and for one of other settings or of other data.
    """
    path = epath.Path(folder) / SUMMARY
    summary = read_json(path)
    if summary is None:
        raise UserError(f"--onto={folder}: there is no {SUMMARY} in it; {ADVICE}.")
    with understood(path, ADVICE):
        _require_same(folder, summary["settings"], as_kept(settings))
        if summary["data"] != json.loads(json.dumps(data)):
            raise UserError(
                f"--onto={folder}: that run had other data: {summary['data']}, not {data}; name the same files."
            )
        runs = summary.get("runs") or [told_of(read_json(epath.Path(folder) / ENVIRONMENT) or {})]
        return Earlier(
            tuple({"runs": [0] * bases_of([row]), **row} for row in summary["rows"]), tuple(summary["tuning"]), summary["outputs"], tuple(runs),
            summary.get("questions", {}), summary["kinds"], summary["constant"], tuple(summary["settings"]["parts"]),
            summary["settings"]["bases"], summary["settings"]["many_bases"], hashlib.sha256(json.dumps(summary, sort_keys=True).encode()).hexdigest(),
        )  # fmt: skip


def _require_same(folder: epath.Path, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for name in now:
        if name not in OF_A_RUN and then.get(name) != now[name]:
            raise UserError(
                f"--onto={folder}: that run had {name} = {then.get(name)}, not {now[name]}; take its preset and flags."
            )


def told_of(environment: Mapping[str, Any]) -> dict[str, Any]:
    """What `runs` says of a run."""
    return {name: environment.get(name) for name in ABOUT}


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
    most = max(settings.bases, before.bases)
    many = max(settings.many_bases, before.many_bases)
    both = dataclasses.replace(settings, parts=every, bases=most, many_bases=many)
    return both, dataclasses.replace(settings, parts=parts)
