"""What may be said of numbers that were measured: every rule of inference of the ledger. Nothing here imports jax.

A fact is true, false or None, which is "not settled". Values are lists with one number a unit (a seed, a base), in the same order wherever
two are compared: units are paired. Letters: U units, I items (sentences, images).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from experiments.common.statistics import estimate, text

LEVEL = 0.05  # of every test; families of tests share it (`holm`)


@dataclasses.dataclass(frozen=True)
class Fact:
    """What is asked, the answer, and the numbers it rests on. `p` is two-sided, of the bar that was asked about."""

    said: str
    true: bool | None
    shown: str
    p: float | None = None
    side: bool | None = None  # the answer if it were settled


def more(said: str, a: Sequence[float], b: Sequence[float] | float = 0.0, *, bar: float = 0.0, digits: int = 2) -> Fact:
    """Whether a - b exceeds the bar, by a paired t-test: false where it is below, not settled where the interval holds the bar.

    >>> more("a is more", [3.0, 4.0, 5.1], [1.0, 2.1, 3.0]).true, more("a is more", [3.0, 1.0, 2.0], [1.0, 2.0, 3.0]).true
    (True, None)
    """
    return _of_test(said, _differences(a, b), bar, digits)


def less(said: str, a: Sequence[float], b: Sequence[float] | float = 0.0, *, bar: float = 0.0, digits: int = 2) -> Fact:
    """Whether a - b lies below the bar; as `more`.

    >>> less("a is less", [1.0, 2.1, 3.0], [3.0, 4.0, 5.1]).true
    True
    """
    return turned(more(said, a, b, bar=bar, digits=digits))


def equivalent(said: str, a: Sequence[float], b: Sequence[float], margin: float, *, digits: int = 2) -> Fact:
    """Whether a - b lies within +-margin, by two one-sided tests (Schuirmann 1987, J. Pharmacokin. Biopharm. 15, p. 657).

    That is: whether its 90 % interval does. False where that lies outside altogether.

    >>> equivalent("alike", [1.0, 2.0, 3.1], [1.1, 2.0, 3.0], margin=0.5).true
    True
    """
    low, high = _interval(_differences(a, b), 1 - 2 * LEVEL)
    if low is None:
        return Fact(said, None, "n = 1")
    shown = f"{np.mean(_differences(a, b)):.{digits}f}, 90 % [{low:.{digits}f}, {high:.{digits}f}], margin {margin:g}"
    return Fact(said, _inside(low, high, -margin, margin), shown)


def alike(said: str, a: Sequence[float], b: Sequence[float], share: float, *, digits: int = 2) -> Fact:
    """Whether the ratio of means a / b lies within 1 +- share: two one-sided tests by Fieller's interval (1954, J. R. Stat. Soc. B 16, p. 175).

    Not settled, too, where b's mean is not told from 0.

    >>> alike("within a fifth", [10.0, 11.0, 12.5], [10.0, 11.5, 12.0], 0.2).true
    True
    """
    interval = fieller(a, b, 1 - 2 * LEVEL)
    if interval is None:
        return Fact(said, None, "the ratio has no interval")
    low, high = interval
    shown = f"ratio {np.mean(a) / np.mean(b):.{digits}f}, 90 % [{low:.{digits}f}, {high:.{digits}f}], margin {100 * share:g} %"
    return Fact(said, _inside(low, high, 1 - share, 1 + share), shown)


def fieller(a: Sequence[float], b: Sequence[float], level: float = 0.95) -> tuple[float, float] | None:
    """The interval of mean(a) / mean(b), paired; None where b's mean is not told from 0, or n is 1.

    >>> [round(end, 3) for end in fieller([2.0, 4.0, 6.0], [1.0, 2.0, 3.0], 0.5)]
    [2.0, 2.0]
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    n = len(a)
    if n < 2:
        return None
    t2 = stats.t.ppf((1 + level) / 2, n - 1) ** 2 / n
    cov = np.cov(a, b)
    # (mean a - q mean b)^2 = t^2 / n (var a - 2 q cov + q^2 var b), solved for q
    square = b.mean() ** 2 - t2 * cov[1, 1]
    middle = a.mean() * b.mean() - t2 * cov[0, 1]
    rest = a.mean() ** 2 - t2 * cov[0, 0]
    if square <= 0:
        return None
    root = np.sqrt(max(0.0, middle**2 - square * rest))
    return float((middle - root) / square), float((middle + root) / square)


def over_items(
    said: str, a: np.ndarray, b: np.ndarray, *, bar: float = 0.0, factor: float = 100.0, digits: int = 2
) -> Fact:
    """Whether mean(a - b) exceeds the bar, where units and items are both a sample: a, b [U, I], 1 for right.

    The variance of the mean is that of the units' means over U plus that of the items' over I, more than there is, as each holds a part of the rest
    (Owen 2007, Ann. Appl. Stat. 1, p. 386, section 3); degrees of freedom after Satterthwaite, but 1 for two units. Where units vary most and are few
    a 95 % interval has the mean less often: 92 times of 100 at the worst for three units (simulated). `factor` turns shares into percent, `bar` is
    in those.
    """
    mean, error, freedom, size = _over_items(a, b, factor)
    if not freedom:
        return Fact(said, None, f"{mean:.{digits}f}")
    half = stats.t.ppf(1 - LEVEL / 2, freedom) * error
    p = float(2 * stats.t.sf(abs(mean - bar) / error, freedom)) if error else float(mean == bar)
    shown = f"{mean:.{digits}f} [{mean - half:.{digits}f}, {mean + half:.{digits}f}] {size}, {_p_told(p, bar)}"
    side = bool(mean > bar)
    return Fact(said, side if p < LEVEL else None, shown, p, side)


def _p_told(p: float, bar: float) -> str:
    """Of a test against a bar.

    >>> _p_told(0.0123, 5), _p_told(0.0, 0)
    ('p = 0.012 for the bar 5', 'p < 1e-300')
    """
    told = f"p = {p:.2g}" if p > 1e-300 else "p < 1e-300"
    return f"{told} for the bar {bar:g}" if bar else told


def equivalent_over_items(
    said: str, a: np.ndarray, b: np.ndarray, margin: float, *, factor: float = 100.0, digits: int = 2
) -> Fact:
    """Whether mean(a - b) lies within +-margin, as `equivalent` asks it, where units and items are both a sample, as in `over_items`."""
    mean, error, freedom, size = _over_items(a, b, factor)
    if not freedom:
        return Fact(said, None, f"{mean:.{digits}f}")
    half = stats.t.ppf(1 - LEVEL, freedom) * error
    low, high = mean - half, mean + half
    shown = f"{mean:.{digits}f}, 90 % [{low:.{digits}f}, {high:.{digits}f}] {size}, margin {margin:g}"
    return Fact(said, _inside(low, high, -margin, margin), shown)


def _over_items(a: np.ndarray, b: np.ndarray, factor: float) -> tuple[float, float, float, str]:
    """(mean of factor (a - b), its standard error, degrees of freedom, of how many it is); no freedom for one item of one unit."""
    d = factor * (np.asarray(a, float) - np.asarray(b, float))
    parts = [
        (d.mean(axis=axis).var(ddof=1) / d.shape[1 - axis], d.shape[1 - axis] - 1)
        for axis in (0, 1)
        if d.shape[1 - axis] > 1
    ]
    variance = sum(v for v, _ in parts)
    freedom = variance**2 / sum(v**2 / df for v, df in parts) if variance else sum(df for _, df in parts)
    freedom = min(freedom, 1) if d.shape[0] == 2 else freedom
    return float(d.mean()), float(np.sqrt(variance)), float(freedom), f"over {d.shape[0]} units and {d.shape[1]} items"


def slope(x: Sequence[float], y: np.ndarray, degree: int = 1) -> list[float]:
    """Of each unit, the coefficient of x^degree in the least-squares polynomial of that degree; y [U, len(x)].

    A straight line's slope (degree 1), or a curvature (2): one number a unit, to be tested as any other.

    >>> [round(value, 6) for value in slope([0, 1, 2], [[1.0, 2.0, 3.0], [0.0, 2.0, 4.0]])]
    [1.0, 2.0]
    """
    return np.polyfit(np.asarray(x, float), np.asarray(y, float).T, degree)[0].tolist()


def holm(facts: Sequence[Fact], level: float = LEVEL) -> list[Fact]:
    """The facts of one family, which share the level (Holm 1979, Scand. J. Stat. 6, p. 65); those that fall short are not settled.

    >>> [fact.true for fact in holm([Fact("a", True, "", 0.01, True), Fact("b", True, "", 0.04, True), Fact("c", False, "", 0.03, False)])]
    [True, None, None]
    """
    order = sorted(range(len(facts)), key=lambda i: 1.0 if facts[i].p is None else facts[i].p)
    found, is_going = list(facts), True
    for place, i in enumerate(order):
        is_going = is_going and facts[i].p is not None and facts[i].p <= level / (len(facts) - place)
        found[i] = dataclasses.replace(facts[i], true=facts[i].side if is_going else None)
    return found


def every(said: str, facts: Sequence[Fact]) -> Fact:
    """Whether all of them are true; the one that is shown is the least sure.

    Where some lie on the other side of their bar, the one most against is shown. Each may be tested at the whole level for all to be called true
    (Berger 1982, Technometrics 24, p. 295); one alone must be false for the answer to be, so that such a p is multiplied by their number. Where a
    fact has no p, the answers themselves are taken.

    >>> facts = [Fact("a", True, "", 0.01, True), Fact("b", True, "", 0.04, True), Fact("c", False, "", 0.03, False)]
    >>> every("a and b", facts[:2]).true, every("all", facts).true
    (True, None)
    """
    if any(fact.p is None for fact in facts):
        answers = [fact.true for fact in facts]
        true = False if False in answers else True if all(answers) else None
        return Fact(said, true, ", ".join(f"{fact.said}: {fact.shown}" for fact in facts))
    wrong = [fact for fact in facts if fact.side is not True]
    weakest = min(wrong, key=lambda fact: fact.p) if wrong else max(facts, key=lambda fact: fact.p)
    p = min(1.0, weakest.p * (len(facts) if wrong else 1))
    which = "most against" if wrong else "least sure"
    shown = f"{which}, {weakest.said}: {weakest.shown}" if len(facts) > 1 else weakest.shown
    return Fact(said, weakest.side if p < LEVEL else None, shown, p, weakest.side)


def one_run(published: float, values: Sequence[float], *, unchanged: float | None = None, digits: int = 3) -> str:
    """Whether one published number is of the kind of a single further run of ours, by the 95 % prediction interval.

    All are compared as they are told: a published number, too, was rounded.

    Args:
      unchanged: what the number would have been without the effect; an interval that holds this as well says nothing.

    >>> one_run(2.0, [1.0, 2.0, 3.0], digits=0)
    'published 2: within a single run of ours, [-3, 7]'
    >>> one_run(2.0, [1.0, 2.0, 3.0], unchanged=6.0, digits=0)
    'published 2: says nothing, a single run of ours, [-3, 7], could also be unchanged (6)'
    """
    e = estimate(values)
    if e["low"] is None:
        return f"published {published:g}"
    half = (e["high"] - e["mean"]) * np.sqrt(e["n"] + 1)
    low, high = round(e["mean"] - half, digits), round(e["mean"] + half, digits)
    of_ours = f"a single run of ours, [{low:.{digits}f}, {high:.{digits}f}]"
    if not low <= published <= high:
        return f"published {published:g}: outside {of_ours}"
    if unchanged is not None and low <= round(unchanged, digits) <= high:
        return f"published {published:g}: says nothing, {of_ours}, could also be unchanged ({unchanged:.{digits}f})"
    return f"published {published:g}: within {of_ours}"


def _differences(a, b) -> np.ndarray:
    return np.asarray(a, float) - np.asarray(b, float)


def _interval(values: np.ndarray, level: float) -> tuple[float | None, float | None]:
    e = estimate(values.tolist(), level)
    return e["low"], e["high"]


def _of_test(said: str, values: np.ndarray, bar: float, digits: int) -> Fact:
    e = estimate(values.tolist())
    if e["low"] is None:
        return Fact(said, None, f"{text(e, digits)}, n = 1")
    side = bool(e["mean"] > bar)
    p = _p(values - bar)
    asked = f" for the bar {bar:g}" if bar else ""  # the interval is that of the difference
    return Fact(said, side if p < LEVEL else None, f"{text(e, digits)}, p = {p:.2g}{asked}", p, side)


def _p(values: np.ndarray) -> float:
    """Two-sided, of a mean of 0; units that all agree leave no doubt, or, at 0, no difference."""
    if values.std() == 0:
        return 1.0 if values[0] == 0 else 0.0
    return float(stats.ttest_1samp(values, 0.0).pvalue)


def turned(fact: Fact) -> Fact:
    """The answer to the opposite question.

    >>> turned(Fact("a is less", True, "", 0.01, True)).true
    False
    """

    def turn(answer: bool | None) -> bool | None:
        return None if answer is None else not answer

    return dataclasses.replace(fact, true=turn(fact.true), side=turn(fact.side))


def _inside(low: float, high: float, least: float, most: float) -> bool | None:
    if least < low and high < most:
        return True
    return False if high < least or low > most else None


def record(fact: Fact) -> dict[str, Any]:
    """What the ledger's JSON keeps of a fact."""
    return {"asked": fact.said, "answer": fact.true, "measured": fact.shown}
