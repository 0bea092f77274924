"""A verdict out of facts, each told with its answer; and what facts are made of: differences over shared seeds."""

from typing import Any

import numpy as np

from experiments.claims.ledger import FAILS, HOLDS, Claim
from experiments.common.statistics import estimate

Facts = dict[str, bool]


def claim(id: str, statement: str, ours: str, n: int, facts: Facts, command: str, more: str = "") -> Claim:
    """The verdict and its reason are the facts'; the first is what the claim cannot do without."""
    held = facts[next(iter(facts))] and sum(facts.values())
    verdict = HOLDS if held == len(facts) else "holds in part" if held else FAILS
    reason = "; ".join(f"{fact}: {'yes' if true else 'no'}" for fact, true in facts.items())
    return Claim(id, statement, "a figure", ours, n, verdict, reason + more, command)


def gain(a: list[float], b: list[float], level: float = 0.95) -> dict[str, Any]:
    """b - a over the seeds that both have."""
    n = min(len(a), len(b))
    return estimate(np.subtract(b[:n], a[:n]).tolist(), level)


def above(e: dict[str, Any], bar: float = 0.0) -> bool:
    """Whether the interval lies above the bar; without an interval it does not."""
    return e["low"] is not None and e["low"] > bar


def below(e: dict[str, Any], bar: float) -> bool:
    """Whether the interval lies below the bar."""
    return e["high"] is not None and e["high"] < bar
