"""Rows of S4's summary, and what they are of: the base is the unit, its seeds averaged. Letters: U bases, I items. Nothing here imports jax."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.common.items import unpacked

Summary = Mapping[str, Any]
Row = Mapping[str, Any]
WORDS, BOTH, STORED = "words", "words and phrasings", "stored"
NOT_SCORED = ("member", "s_member", "compare", "opposite", "sort", "reverse", "join", "drop", "replace", "upper")


class NotRun(Exception):
    """What a claim asks for is in no part that was run."""


def row(summary: Summary, part: str, arm: str, **of: Any) -> Row:
    """The last row of an arm in a part whose other fields are as given."""
    found = [one for one in summary["rows"] if one["part"] == part and one["arm"] == arm]
    found = [one for one in found if all(one.get(name) == value for name, value in of.items())]
    if not found:
        raise NotRun(f"no row of {arm} in {part} with {of}")
    return found[-1]


def right(summary: Summary, of: Row, part: str = WORDS, *, kinds: tuple[str, ...] | None = None) -> np.ndarray:
    """float [U, I]: the share of a base's seeds that have an item right; of the kinds that are scored, or of others."""
    each = np.asarray(summary["kinds"][part])
    runs = unpacked(of["right"][part], len(each)).astype(float)
    wanted = ~np.isin(each, NOT_SCORED) if kinds is None else np.isin(each, kinds)
    return by_base(of, runs[:, wanted])


def share(of: Row, part: str = WORDS) -> list[float]:
    """Of each base, the share of the scored items that are right, whatever kinds were taught."""
    return by_base(of, of["share"][part]).tolist()


def bases_of(of: Row) -> int:
    """U."""
    return len({base for base, _ in of["units"]})


def by_base(of: Row, values: Any) -> np.ndarray:
    """[U, ...] of what has a value for each of a row's units."""
    bases = np.asarray([base for base, _ in of["units"]])
    values = np.asarray(values, float)
    return np.stack([values[bases == base].mean(axis=0) for base in dict.fromkeys(bases.tolist())])


def by_kind(summary: Summary, of: Row, part: str = WORDS) -> dict[str, float]:
    """Of each kind, the mean share of its items that are right."""
    each = np.asarray(summary["kinds"][part])
    runs = unpacked(of["right"][part], len(each))
    return {kind: float(runs[:, each == kind].mean()) for kind in dict.fromkeys(each.tolist())}


def asked(of: Row, part: str, what: str) -> np.ndarray:
    """[U, I] of an open question's measure."""
    return by_base(of, of["asked"][part][what])


def general(of: Row) -> np.ndarray:
    """[U] nats a token of general text, after minus before."""
    curve = by_base(of, of["curves"]["general"])
    return curve[:, -1] - curve[:, 0]


def rates(of: Row, way: str, kind: str) -> list[float]:
    """Of each base's first model, the share of its outputs that are so."""
    return [said[way][kind] for said in of["said"]]
