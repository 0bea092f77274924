"""The studies' pages in docs/studies/: their tables and folded details are made from CLAIMS.json, the words around them are written by hand.

Parts of a page (`common.made`), each of claims that glob patterns name:

    verdicts S1.*                    a row a claim: what it says, what the study said, n, verdict
    facts S1.1 S1.5                  a row a fact: what was asked, what was measured, the answer
    details S1.*                     folded: unit, test, margin, reason, command
    run mnist_digit9_s1              the run that is kept, with its commit
    figure following/kinds.png | .   a figure that need not be there yet, and what it shows
    studies s0 s1                    a row a page, with how many of its claims have which verdict

A sentence that a verdict bears says so, `<!-- rests on S1.6: not settled -->`; `stale` finds those whose verdict has changed.
"""

import fnmatch
import json
import pathlib
import re
from collections import Counter
from typing import Any

from experiments.common import made
from experiments.common.errors import UserError
from experiments.ledger.facts import OUTCOMES, SETTLED

RESULTS = pathlib.Path(__file__).parents[1] / "results"
DOCS = pathlib.Path(__file__).parents[2] / "docs" / "studies"
RESTS = re.compile(r"<!-- rests on (.+?): (.+?) -->")
COMMAND = "python experiments/reproduce.py --from_results=experiments/results"
NONE_YET = "*No verdict yet.*"
OF_BEFORE = "It is of an earlier form of this study: its setting differs from what is said above, and no verdict is drawn from it."

Kept = dict[str, Any]  # a claim, as CLAIMS.json has it


def write() -> list[pathlib.Path]:
    """Makes the pages that differ from the ledger anew, and says which sentences rest on verdicts that have changed."""
    claims, changed = read(), []
    for path in pages():
        text = path.read_text(encoding="utf-8")
        new = filled(text, claims)
        if new != text:
            path.write_text(new, encoding="utf-8")
            changed.append(path)
        for line in stale(new, claims):
            print(f"{path.relative_to(DOCS.parents[1])}: {line}")
    return changed


def read() -> list[Kept]:
    """The claims of the ledger."""
    return json.loads((RESULTS / "CLAIMS.json").read_text(encoding="utf-8"))["claims"]


def pages() -> list[pathlib.Path]:
    return sorted(DOCS.glob("*.md"))


def filled(text: str, claims: list[Kept]) -> str:
    """A page with its parts made from these claims."""
    of_claims = {"verdicts": _verdicts, "facts": _facts, "details": _details}
    makers = {kind: lambda of, make=make: make(chosen(of, claims)) for kind, make in of_claims.items()}
    more = {"run": _run, "figure": _figure, "studies": lambda of: _studies(of, claims)}
    return made.filled(text, {**makers, **more})


def chosen(patterns: str, claims: list[Kept]) -> list[Kept]:
    """The claims that any of the patterns names, in the ledger's order."""
    return [claim for claim in claims if any(fnmatch.fnmatchcase(claim["id"], one) for one in patterns.split())]


def stale(text: str, claims: list[Kept]) -> list[str]:
    """Of each sentence whose verdict is no more what it rests on, what to do."""
    now = {claim["id"]: claim["verdict"] for claim in claims}
    return [
        f"the words after 'rests on {id}: {then}' are to be read again, the ledger says {now.get(id, 'nothing')!r}"
        for id, then in RESTS.findall(text)
        if now.get(id) != then
    ]


def _verdicts(claims: list[Kept]) -> str:
    if not claims:
        return NONE_YET
    rows = [
        [
            c["id"],
            made.plain(c["statement"]),
            made.plain(c["published"]),
            str(c["n"]),
            f"**{made.plain(c['verdict'])}**",
        ]
        for c in claims
    ]
    return made.table(["id", "claim", "the study said", "n", "verdict"], rows) + f"\n\nn counts: {_units(claims)}."


def _units(claims: list[Kept]) -> str:
    """What is sampled, with the claims that sample it where they differ."""
    of: dict[str, list[str]] = {}
    for claim in claims:
        of.setdefault(claim["declared"]["unit"], []).append(claim["id"])
    if len(of) == 1:
        return made.plain(next(iter(of)))
    return "; ".join(f"{made.plain(unit)} ({', '.join(ids)})" for unit, ids in of.items())


def _facts(claims: list[Kept]) -> str:
    rows = [[claim["id"], *cells] for claim in claims for cells in _facts_of(claim)]
    return made.table(["id", "asked", "measured", "answer"], rows) if rows else NONE_YET


def _facts_of(claim: Kept) -> list[list[str]]:
    """[asked, measured, answer] of each fact; a claim that is exact has none, and stands for itself."""
    if not claim["facts"]:
        return [[made.plain(claim["statement"]), made.plain(claim["ours"]), made.plain(claim["verdict"])]]
    return [
        [made.plain(fact["asked"]), made.plain(fact["measured"]), SETTLED[fact["answer"]]] for fact in claim["facts"]
    ]


def _details(claims: list[Kept]) -> str:
    return "\n\n".join(map(_detail, claims)) if claims else NONE_YET


def _detail(claim: Kept) -> str:
    declared = claim["declared"]
    margin = [] if declared["margin"] is None else [f"{declared['margin']:g}"]
    return made.folded(
        f"{claim['id']}: {claim['verdict']}. {claim['statement']}",
        [
            ("The study said", [claim["published"]]),
            ("Measured here", made.parts(claim["ours"])),
            ("Why this verdict", made.parts(claim["reason"])),
            (f"The test, declared {declared['date']}", made.parts(declared["asks"])),
            ("Margin", margin),
            ("Chosen after a look at numbers", made.parts(declared["after_a_look"])),
            ("n counts", [f"{declared['unit']}, {claim['n']}"]),
            ("Command", [claim["command"]]),
        ],
    )


def _run(name: str) -> str:
    path = RESULTS / name / "environment.json"
    if not path.is_file():
        return f"No run is kept in `experiments/results/{name}` yet."
    found = json.loads(path.read_text(encoding="utf-8"))
    summary = path.with_name("summary.json").read_text(encoding="utf-8")
    more = "" if any(name in summary for name in OUTCOMES) else f" {OF_BEFORE}"
    runs = list(dict.fromkeys(map(_environment, json.loads(summary).get("runs", [found]))))
    which = "The run that is kept" if len(runs) == 1 else "The runs that are kept, each going on from the one before it"
    return f"{which}: `experiments/results/{name}`, {'; '.join(runs)}.{more}"


def _environment(of: dict[str, Any]) -> str:
    return f"commit `{of['commit']}`, jax {of['packages']['jax']} on {of['device']}, {of['cores']} cores"


def _figure(of: str) -> str:
    path, _, alt = of.partition(" | ")
    if not alt:
        raise UserError(f"figure {of}: say what it shows, behind ' | '.")
    if not (RESULTS / path).is_file():
        return f"*A figure that the next run draws: {alt}.*"
    return f"![{alt}](../../experiments/results/{path})"


def _studies(names: str, claims: list[Kept]) -> str:
    rows = []
    for name in names.split():
        text = (DOCS / f"{name}.md").read_text(encoding="utf-8")
        title = text.splitlines()[0].removeprefix("# ")
        rows.append([f"[{title}]({name}.md)", *_counted(chosen(" ".join(made.asked(text, "verdicts")), claims))])
    return made.table(["study", "claims", "verdicts"], rows)


def _counted(claims: list[Kept]) -> list[str]:
    verdicts = Counter(claim["verdict"].partition(" (")[0] for claim in claims)
    said = "; ".join(f"{verdict}: {count}" for verdict, count in verdicts.most_common())
    return [str(len(claims)), said or "none yet"]
