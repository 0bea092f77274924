"""One row per claim, and the two files they are written to."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from etils import epath

from experiments.common import smoke
from experiments.common.recording import write_json, write_text
from experiments.common.statistics import text
from experiments.ledger import declared
from experiments.ledger.declared import Declared
from experiments.ledger.inference import Fact, record

HOLDS, FAILS = "holds", "does not hold"


@dataclasses.dataclass(frozen=True)
class Claim:
    """What a study said, what was measured (mean [95 % interval], n), the verdict and why."""

    id: str
    statement: str
    published: str
    ours: str
    n: int
    verdict: str
    reason: str
    command: str
    facts: tuple[Fact, ...] = ()

    @property
    def declared(self) -> Declared:
        """What was written down of its test before the run; KeyError where nothing was, as no claim goes without."""
        return declared.of(self.id)


def verdict(condition: bool) -> str:
    """The plain verdicts; "holds if ..." is written out where it applies."""
    return HOLDS if condition else FAILS


def consistent(published: float, e: dict[str, Any]) -> bool:
    """Whether one published run lies in the 95 % prediction interval of a further run of ours.

    The interval of the mean has half-width t s / sqrt(n), that of a single run t s sqrt(1 + 1/n).
    """
    half = (e["high"] - e["mean"]) * math.sqrt(e["n"] + 1)
    return abs(published - e["mean"]) <= half


def against(published: float, e: dict[str, Any], digits: int = 3) -> str:
    """`0.951 [0.949, 0.953]`, and whether the published run is one of its kind."""
    likely = "consistent with" if consistent(published, e) else "outside"
    return f"{text(e, digits)} (published {published:g}: {likely} a single run of ours)"


def write(
    claims: list[Claim],
    environment: dict[str, Any],
    folder: epath.Path,
    preset: str = "full",
    left_out: Sequence[str] = (),
) -> list[epath.Path]:
    """CLAIMS.md and CLAIMS.json; `left_out` are the entries of studies that are kept in a form that no claim can be made of."""
    kept = {"environment": environment, "left_out": list(left_out), "claims": [_record(c) for c in claims]}
    write_json(folder / "CLAIMS.json", kept)
    write_text(folder / "CLAIMS.md", _markdown(claims, environment, preset, left_out))
    return [folder / "CLAIMS.md", folder / "CLAIMS.json"]


def _about_left_out(entries: Sequence[str]) -> list[str]:
    if not entries:
        return []
    named = ", ".join(f"`{entry}`" for entry in entries)
    return [
        f"Without verdicts until they are run again, as their summaries keep no outcomes of each seed: {named}.",
        "",
    ]


def _record(claim: Claim) -> dict[str, Any]:
    """A claim as JSON keeps it, with what was declared and the facts."""
    of_it = {"declared": dataclasses.asdict(claim.declared)}
    return dataclasses.asdict(claim) | of_it | {"facts": [record(fact) for fact in claim.facts]}


def _markdown(claims: list[Claim], environment: dict[str, Any], preset: str, left_out: Sequence[str]) -> str:
    lines = [
        "# Ledger of claims",
        "",
        *([smoke.NOTE, ""] if preset == "smoke" else []),
        f"Written by `python experiments/reproduce.py --preset={preset}`; ours are means with 95 % Student intervals over n seeds.",
        f"Commit {environment['commit']}, jax {environment['packages']['jax']}, {environment['device']}.",
        "",
        *_about_left_out(left_out),
        "| id | claim | the study | ours | unit, n | verdict | reason | test | command |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for c in claims:
        unit, verdict = f"{c.declared.unit}, {c.n}", f"**{c.verdict}**"
        cells = (c.id, c.statement, c.published, c.ours, unit, verdict, c.reason, str(c.declared), f"`{c.command}`")
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"
