"""A verdict out of facts, each told with its answer; and what facts are made of: differences over shared seeds."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.common.statistics import estimate
from experiments.ledger.inference import Fact
from experiments.ledger.table import FAILS, HOLDS, Claim

Facts = dict[str, bool | None]  # None: not settled
OUTCOMES = ('"by_seed"', '"units"')  # fields of what a summary keeps of each seed, or of each base
FIRST, ANY, ALL = "first", "any", "all"  # which of its facts a claim needs
SETTLED = {True: "yes", False: "no", None: "not settled"}


def claim(
    id: str, statement: str, ours: str, n: int, facts: Facts, command: str, more: str = "", needs: str = FIRST
) -> Claim:
    """The verdict and its reason are the facts'.

    Args:
      needs: FIRST: the claim cannot do without the first fact; where that is not settled, the claim is not, or holds in part if another fact
        does. ANY: where one fails and none holds, it fails, and where one holds, it holds in part. ALL: where one fails, it fails.

    >>> facts = {"a": None, "b": False}
    >>> [claim("", "", "", 5, facts, "", needs=needs).verdict for needs in (FIRST, ANY, ALL)]
    ['not settled', 'does not hold', 'does not hold']
    """
    answers = list(facts.values())
    held, failed = answers.count(True), answers.count(False)
    if {FIRST: answers[0] is False, ANY: failed and not held, ALL: failed}[needs]:
        verdict = FAILS
    elif held == len(answers):
        verdict = HOLDS
    else:
        verdict = "holds in part" if held and needs != ALL else "not settled"
    reason = "; ".join(f"{fact}: {SETTLED[true]}" for fact, true in facts.items())
    return Claim(id, statement, "a figure", ours, n, verdict, reason + more, command)


def settled(
    id: str,
    statement: str,
    facts: Sequence[Fact],
    n: int,
    command: str,
    *,
    published: str = "a figure",
    ours: str = "",
    more: str = "",
    needs: str = FIRST,
) -> Claim:
    """The claim whose verdict follows from facts as in `claim`; what was measured is told with each of them."""
    answers = {fact.said: fact.true for fact in facts}
    shown = ours or "; ".join(f"{fact.said}: {fact.shown}" for fact in facts)
    plain = claim(id, statement, shown, n, answers, command, more, needs)
    return dataclasses.replace(plain, published=published, facts=tuple(facts))


def gain(a: list[float], b: list[float], level: float = 0.95) -> dict[str, Any]:
    """b - a over the seeds that both have."""
    n = min(len(a), len(b))
    return estimate(np.subtract(b[:n], a[:n]).tolist(), level)


def above(e: dict[str, Any], bar: float = 0.0) -> bool:
    """Whether the interval lies above the bar; without an interval it does not."""
    return e["low"] is not None and e["low"] > bar


def less_than(e: dict[str, Any], bar: float) -> bool | None:
    """Whether what was measured is less than the bar; not settled where the interval has the bar inside, or there is none."""
    return True if below(e, bar) else False if above(e, bar) else None


def below(e: dict[str, Any], bar: float) -> bool:
    """Whether the interval lies below the bar."""
    return e["high"] is not None and e["high"] < bar
