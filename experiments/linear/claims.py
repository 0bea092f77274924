"""S2.1 to S2.3, and S2.8, from the summary of the linear teacher."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from experiments.common.statistics import text
from experiments.ledger import declared
from experiments.ledger.facts import settled
from experiments.ledger.inference import Fact, alike, every, holm, less, more, slope, turned
from experiments.ledger.table import Claim
from experiments.linear.settings import RULES

SCALED, FIXED = RULES
ASKED_STEPS = (5, 10, 20, 50)
Rows = Sequence[dict[str, Any]]


def claims(summary: dict[str, Any], command: str) -> list[Claim]:
    n = summary["rows"][0]["error"]["n"]
    found = [_tracks(summary, n, command), _monotone(summary["rows"], n, command)]
    if summary["early"]:
        found.append(_artifact(summary, n, command))
    if summary["deep"]:
        found.append(_deep(summary["deep"], n, command))
    return found


def pick(rows: Rows, **of: Any) -> list[dict[str, Any]]:
    """The rows with these values, in order."""
    return [row for row in rows if all(row[name] == value for name, value in of.items())]


def _worst(rows: Rows, metric: str, over: str = "") -> list[float]:
    """Of each seed the largest value over rows, or ratio of two."""
    values = np.asarray([row["by_seed"][metric] for row in rows])
    return (values / np.asarray([row["by_seed"][over] for row in rows]) if over else values).max(axis=0).tolist()


def _close(said: str, ratios: list[float], margin: float) -> Fact:
    return less(f"{said}: within {100 * margin:g} %", ratios, 1.0, bar=margin, digits=5)


# S2.1


def _tracks(summary: dict[str, Any], n: int, command: str) -> Claim:
    margin = declared.of("S2.1").margin
    kinds = list(dict.fromkeys(row["inputs"] for row in summary["rows"]))
    facts = [
        _close(f"{kind} inputs", _worst(pick(summary["rows"], inputs=kind), "ratio"), margin)
        for kind in kinds
    ]  # fmt: skip
    uneven = pick(summary["rows"], inputs="anisotropic")
    if uneven:
        facts.append(
            _close("anisotropic inputs, unweighted error", _worst(uneven, "matrix_error", "eckart_young"), margin)
        )
    return settled(
        "S2.1", "learned LoRA tracks the best rank-r error (Eckart-Young)", holm(facts), n, command,
        more=f"; error above the bound as a share of it, of each seed's worst rank, after {summary['steps']} steps. White inputs have Eckart and "
        "Young's bound, by construction; others one that the inputs weigh" + _unseen(summary["rows"]),
    )  # fmt: skip


def _unseen(rows: Rows) -> str:
    """What the matrix is worth on new inputs, at the highest rank."""
    told = []
    for kind in ("few", "noisy"):
        for row in pick(rows, inputs=kind)[-1:]:
            told.append(
                f"{kind} inputs, r = {row['rank']}: {text(row['matrix_error'], 2)} on new inputs, where the matrix of least training error and norm "
                f"has {row['best_matrix_error']['mean']:.2f}, and the best matrix {row['eckart_young']['mean']:.3f}"
            )
    return "".join(f"; {part}" for part in told)


# S2.2


def _monotone(rows: Rows, n: int, command: str) -> Claim:
    groups = list(dict.fromkeys((row["inputs"], row["rule"]) for row in rows))
    steps = [
        fact for kind, rule in groups for fact in _steps(f"{kind}, {rule}", pick(rows, inputs=kind, rule=rule), "error")
    ]
    facts = [_short("error on the training inputs falls at every step of rank", steps)]
    for kind in ("few", "noisy"):
        of = pick(rows, inputs=kind, rule=SCALED)
        if of:
            falls = every(f"error on new inputs does, learned from {kind}", list(_steps("", of, "matrix_error")))
            facts.append(dataclasses.replace(falls, shown=_path(of, "matrix_error")))
    return settled(
        "S2.2", "a larger r improves the approximation monotonically", facts, n, command,
        more="; on white inputs by construction, as the bound falls",
    )  # fmt: skip


def _steps(said: str, rows: Rows, metric: str) -> Iterator[Fact]:
    """From each rank to the next: whether the error falls."""
    for a, b in itertools.pairwise(rows):
        yield less(
            f"{said} r = {a['rank']} to {b['rank']}".strip(), b["by_seed"][metric], a["by_seed"][metric], digits=3
        )


def _short(said: str, facts: Sequence[Fact]) -> Fact:
    """`every`, of so many facts that only their number is told."""
    falls = sum(fact.true is True for fact in facts)
    return dataclasses.replace(every(said, facts), shown=f"{falls} of {len(facts)} steps")


def _path(rows: Rows, metric: str) -> str:
    means, ranks = (
        ", ".join(values)
        for values in zip(*((f"{row[metric]['mean']:.3g}", str(row["rank"])) for row in rows), strict=True)
    )
    return f"{means} at r = {ranks}"


# S2.3


def _artifact(summary: dict[str, Any], n: int, command: str) -> Claim:
    rows, margin = summary["early"], declared.of("S2.3").margin
    top = rows[-1]["rank"]
    steps = [step for step in ASKED_STEPS if pick(rows, step=step)]
    facts = [
        every(f"alpha fixed is behind at r = {top} and one rate", [_behind(rows, top, step) for step in steps]),
        every("at one rate, alpha fixed, error rises with rank", [_rises(rows, step) for step in steps]),
        dataclasses.replace(
            turned(every("", [_keeps_up(rows, top, step, margin) for step in steps])),
            said=f"at r = {top} it is behind by more than {100 * margin:g} % at their own best rates, too",
        ),
    ]
    at_edge = sum(row["at_edge"] for row in pick(rows, rate="own") if row["step"] in steps)
    gone = max(_worst(pick(summary["rows"], inputs="white"), "ratio"))
    return settled(
        "S2.3", "with alpha fixed, a larger r shrinks alpha/r and causes optimisation artifacts; alpha = c r removes them",
        facts, n, command,
        more=f"; {at_edge} of the own rates asked about lie on the edge of their range; after {summary['steps']} steps at one rate error / bound is "
        f"at most {gone:.5f} under both rules",
    )  # fmt: skip


def _two(rows: Rows, rank: int, step: int, rate: str) -> tuple[list[float], list[float]]:
    """(alpha fixed, alpha = c r): errors by seed."""
    fixed, scaled = (pick(rows, rule=rule, rank=rank, step=step, rate=rate)[0] for rule in (FIXED, SCALED))
    return fixed["by_seed"]["error"], scaled["by_seed"]["error"]


def _behind(rows: Rows, rank: int, step: int) -> Fact:
    return more(f"step {step}", *_two(rows, rank, step, "shared"), digits=3)


def _rises(rows: Rows, step: int) -> Fact:
    of = pick(rows, rule=FIXED, step=step, rate="shared")
    errors = np.asarray([row["by_seed"]["error"] for row in of]).T  # [seeds, ranks]
    slopes = slope(np.log2([row["rank"] for row in of]), errors) if len(of) > 1 else [0.0] * len(errors)
    return more(f"slope at step {step}", slopes, digits=4)


def _keeps_up(rows: Rows, rank: int, step: int, margin: float) -> Fact:
    """Whether alpha fixed has less than 1 + margin times the error; told as the ratio."""
    fixed, scaled = _two(rows, rank, step, "own")
    fact = less(f"step {step}", fixed, (1 + margin) * np.asarray(scaled))
    return dataclasses.replace(fact, shown=alike("", fixed, scaled, margin).shown)


# S2.8


def _deep(rows: Rows, n: int, command: str) -> Claim:
    margin = declared.of("S2.8").margin
    groups = list(dict.fromkeys((row["layers"], row["depth"]) for row in rows))
    trained = [
        _close(f"trained, {depth} {kind} layers", _worst(pick(rows, layers=kind, depth=depth), "ratio"), margin)
        for kind, depth in groups
    ]
    facts = [_close("constructed", _worst(rows, "constructed"), margin), *holm(trained)]
    conditions = "; ".join(
        f"{depth} {kind} layers: condition of the frozen product {pick(rows, layers=kind, depth=depth)[0]['condition']['mean']:.3g}"
        for kind, depth in groups
    )
    return settled(
        "S2.8", "rank-R adapters on each of L frozen linear layers reach the sum of sigma_i^2 over i > R L", facts, n, command,
        published="Zeng and Lee 2024: a theorem", more=f"; error above the bound as a share of it, of each seed's worst rank; {conditions}",
    )  # fmt: skip
