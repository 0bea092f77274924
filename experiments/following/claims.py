"""S4.1 to S4.7, from the summary of S4. The base is the unit; items are a sample, too.

Unless tuned full fine-tuning follows, nothing can be said of LoRA at this scale: the gate. Margins are in points of the scored held-out items.
"""

import contextlib
import dataclasses

import numpy as np

from experiments.common.statistics import estimate, text
from experiments.following.read import (
    BOTH,
    NOT_SCORED,
    WORDS,
    NotRun,
    Row,
    Summary,
    asked,
    by_kind,
    general,
    rates,
    right,
    row,
)
from experiments.following.settings import flags_of
from experiments.ledger import declared
from experiments.ledger.facts import ALL, ANY, settled
from experiments.ledger.inference import Fact, equivalent_over_items, holm, less, more, over_items, turned
from experiments.ledger.table import Claim

GATE = 50.0  # percent of the scored held-out items that tuned full fine-tuning must have right
FOLLOWED = 0.5  # of a kind's items: so many, and the kind is followed
KINDS_FOLLOWED = 6
UNTAUGHT = 5.0  # percent, at most, of the base
NOT_TESTABLE = "not testable at this scale"
OPEN_GATE, CLOSED_GATE = "The gate is open", "THE GATE IS CLOSED, so nothing below can be said of LoRA"
STUDY = "the study's LoRA r=8"


def claims(summary: Summary, command: str) -> list[Claim]:
    """The gate first; behind a closed one every verdict is "not testable". Claims about parts that were not run are left out."""
    command = f"{command} {flags_of(summary['settings'])}".rstrip()
    if (count := len(summary.get("runs", []))) > 1:
        command += f" (in {count} runs, the later ones with --onto)"
    gate, rest = _gate(summary, command), []
    for made in (_one_epoch, _epochs, _rank, _batch, _medical, _full, _cause):
        with contextlib.suppress(NotRun):
            rest.append(made(summary, command))
    if gate.verdict == "holds":
        return [gate, *rest]
    return [gate, *(not_testable(claim, "the gate, S4.0, is closed") for claim in rest)]


def not_testable(claim: Claim, why: str, verdict: str = NOT_TESTABLE) -> Claim:
    """The claim behind a closed gate."""
    return dataclasses.replace(claim, verdict=verdict, reason=f"{why}; {claim.reason}")


def _against(said: str, summary: Summary, a: Row, b: Row, bar: float = 0.0) -> Fact:
    return over_items(said, right(summary, a), right(summary, b), bar=bar)


def _alike(said: str, summary: Summary, id: str, a: Row, b: Row) -> Fact:
    """Within the margin, in points."""
    return equivalent_over_items(said, right(summary, a), right(summary, b), declared.of(id).margin)


def _gains_less(said: str, summary: Summary, a: Row, b: Row, margin: float) -> Fact:
    """Whether a is above b by less than the margin, in points."""
    return turned(_against(said, summary, a, b, bar=margin))


def _percent(summary: Summary, of: Row) -> str:
    return f"{text(estimate(right(summary, of).mean(axis=1).tolist()), 1, 100)} %"


def _gate(summary: Summary, command: str) -> Claim:
    full, base = row(summary, "arms", "full"), row(summary, "arms", "base")
    none = np.zeros_like(right(summary, full))
    followed = [kind for kind, share in by_kind(summary, full).items() if share >= FOLLOWED]
    scored = [kind for kind in followed if kind in _kinds(summary)]
    untaught, count = right(summary, base), len(_kinds(summary))
    facts = [
        over_items(f"tuned full fine-tuning has {GATE:g} % of the items right, with words it never saw", right(summary, full), none, bar=GATE),
        Fact(f"{KINDS_FOLLOWED} of its {count} kinds are followed", len(scored) >= KINDS_FOLLOWED, f"{len(scored)}: {', '.join(scored)}"),
        Fact(f"the base has at most {UNTAUGHT:g} %", bool(100 * untaught.mean() <= UNTAUGHT), f"{100 * untaught.mean():.1f} %"),
    ]  # fmt: skip
    both = f"; with new phrasings, too, {text(estimate(right(summary, full, BOTH).mean(axis=1).tolist()), 1, 100)} %"
    both += _without_copying(summary)
    statement = "the gate: a model of this size can be taught to follow (found here)"
    return settled("S4.0", statement, facts, len(none), command, published="-", more=both, needs=ALL)


def _without_copying(summary: Summary) -> str:
    """Of the base that was shown nothing said again, where there is one."""
    with contextlib.suppress(NotRun):
        return f"; of a base that was shown nothing said again, {_percent(summary, row(summary, 'control', 'full'))}"
    return ""


def _kinds(summary: Summary) -> list[str]:
    return [kind for kind in dict.fromkeys(summary["kinds"][WORDS]) if kind not in NOT_SCORED]


def _one_epoch(summary: Summary, command: str) -> Claim:
    base, full = row(summary, "arms", "base"), row(summary, "arms", "full")
    one = row(summary, "the study's", STUDY, name="one epoch")
    blank = [[100 * share for share in rates(of, "greedy", "blank")] for of in (one, base)]
    facts = [
        less("fewer blank outputs than the base, greedily, in percent", *blank),
        over_items(
            "and less than half of what full fine-tuning has right: that half minus its own, in points",
            0.5 * right(summary, full),
            right(summary, one),
        ),
    ]
    told = f"; of blank outputs the base has {np.mean(blank[1]):.1f} %, so that fewer could hardly be found"
    told += f"; right: base {_percent(summary, base)}, after one epoch {_percent(summary, one)}, full {_percent(summary, full)}"
    statement = "LoRA r = 8, 1 epoch: fewer blank outputs than the base, instruction following still poor"
    return settled("S4.1", statement, facts, len(blank[0]), command, more=told)


def _ends(summary: Summary, arm: str, name: str = "epochs") -> list[Row]:
    """Of the study's LoRA, after each number of epochs; at least two."""
    of_study = [one for one in summary["rows"] if one["part"] == "the study's" and one["name"] == name]
    found = [one for one in of_study if one["arm"] == arm]
    if len(found) < 2:
        raise NotRun(f"{arm}: {name}")
    return found


def _epochs(summary: Summary, command: str) -> Claim:
    """Ten epochs on every base, fifty on fewer."""
    few, many = _ends(summary, STUDY), _ends(summary, STUDY, "many epochs")
    margin = declared.of("S4.2").margin

    def within(first: Row, end: Row) -> Fact:
        epochs, bases = end["steps"] // first["steps"], len(right(summary, end))
        return _alike(f"{epochs} epochs within {margin:g} points of one, {bases} bases", summary, "S4.2", end, first)

    facts = [within(few[0], few[1]), within(many[0], many[-1])]
    told = "; ".join(
        f"{end['steps']:,} updates {_percent(summary, end)}, {len(right(summary, end))} bases"
        for end in (*few, many[-1])
    )
    return settled(
        "S4.2",
        "10 and 50 epochs: no meaningful improvement",
        facts,
        len(right(summary, many[-1])),
        command,
        more=f"; {told}",
        needs=ALL,
    )


def _rank(summary: Summary, command: str) -> Claim:
    sixteen = _ends(summary, "the study's LoRA r=16")[-1]
    eight = next(end for end in _ends(summary, STUDY) if end["steps"] == sixteen["steps"])
    said = f"r = 16 within {declared.of('S4.3').margin:g} points of r = 8 after {eight['steps']:,} updates"
    fact, gain = _alike(said, summary, "S4.3", sixteen, eight), _against("it gains", summary, sixteen, eight)
    more = f"; {gain.said} {gain.shown}: {'more than nothing' if gain.true else 'not told from nothing'}"
    return settled("S4.3", "r = 16 does not help", [fact], len(right(summary, eight)), command, more=more)


def _batch(summary: Summary, command: str) -> Claim:
    large = _ends(summary, STUDY)[1]
    small = _ends(summary, STUDY, "small batch")
    updates = next(one for one in small if one["steps"] == large["steps"])
    epochs = max(small, key=lambda one: one["steps"])
    margin = declared.of("S4.4").margin
    facts = [
        _gains_less(f"at equal epochs it gains less than {margin:g} points", summary, epochs, large, margin),
        _gains_less(f"at equal updates it gains less than {margin:g} points", summary, updates, large, margin),
    ]
    cost = ""
    if _first_run(epochs) == _first_run(large):  # seconds of one machine
        ratio = (epochs["seconds_per_step"] / epochs["batch"]) / (large["seconds_per_step"] / large["batch"])
        cost = f"; a row of it takes {ratio:.2f} times as long, on a CPU: what it wastes of an accelerator was not measured"
    return settled(
        "S4.4", "a smaller batch does not help (that it wastes the accelerator was not tested)", facts, len(right(summary, large)), command,
        more=cost, needs=ALL,
    )  # fmt: skip


def _first_run(of: Row) -> int:
    """Whose times the row has."""
    return of.get("runs", [0])[0]


def _medical(summary: Summary, command: str) -> Claim:
    base, study, tuned = (row(summary, "medical", arm) for arm in ("base", STUDY, "LoRA r=8"))

    def lost(of: Row) -> list[Fact]:
        medical, others = (
            (asked(of, part, "question"), asked(base, part, "question")) for part in ("held out", "open")
        )
        return [
            over_items(
                "its use of a medical question falls: before minus after, nats an answer",
                medical[1],
                medical[0],
                factor=1,
            ),
            over_items(
                "its use of another question falls: before minus after, nats an answer", others[1], others[0], factor=1
            ),
            more("it loses general text, nats a token", general(of).tolist(), digits=3),
        ]

    told = "; ".join(f"tuned LoRA: {fact.said}: {fact.shown}" for fact in lost(tuned))
    return settled(
        "S4.5",
        "LoRA on medical QA made the model worse",
        holm(lost(study)),
        len(general(study)),
        command,
        more=f"; {told}",
        needs=ANY,
    )


def _full(summary: Summary, command: str) -> Claim:
    full, tuned, last = row(summary, "arms", "full"), row(summary, "arms", "LoRA r=8"), _ends(summary, STUDY)[-1]
    facts = holm([
        _against(f"full after {full['steps']:,} updates is above the study's LoRA after {last['steps']:,}", summary, full, last),
        *_against_longest(summary, full),
        _against("and above LoRA r = 8 on all layers at its own rate, after as many", summary, full, tuned),
    ])  # fmt: skip
    shares = ", ".join(f"{of['arm']} {_percent(summary, of)}" for of in (full, tuned, last))
    told = f"; right: {shares}{_where_it_stops(summary)}"
    return settled(
        "S4.6", "full fine-tuning was clearly better at following instructions (how long it and LoRA take to converge was not tested)",
        facts, len(right(summary, full)), command, more=told,
    )  # fmt: skip


def _against_longest(summary: Summary, full: Row) -> list[Fact]:
    """Full fine-tuning against the study's LoRA after its most epochs, on the bases that had them."""
    with contextlib.suppress(NotRun):
        longest = _ends(summary, STUDY, "many epochs")[-1]
        study = right(summary, longest)
        said = f"and after {longest['steps']:,}, {len(study)} bases"
        return [over_items(said, right(summary, full)[: len(study)], study)]
    return []


def _where_it_stops(summary: Summary) -> str:
    """Of the arms that were trained for long, where they were."""
    with contextlib.suppress(NotRun):
        full, tuned = (_stopped(summary, arm) for arm in ("full", "LoRA r=8"))
        return f"; in the long runs, whose rate falls to 0 at their end, at the end that is best on tuning items: full {full}, LoRA r = 8 {tuned}"
    return "; the long runs were not made"


def _stopped(summary: Summary, arm: str) -> str:
    """Each base at its own best measurement of the tuning items."""
    ends = [one for one in summary["rows"] if one["part"] == "converged" and one["arm"] == arm]
    if not ends:
        raise NotRun(f"converged: {arm}")
    best = np.asarray(ends[-1]["curves"]["right"])[:, 1:].argmax(axis=1)
    shares = np.stack([right(summary, one).mean(axis=1) for one in ends])  # [ends, U]
    steps = [ends[0]["ends"][0] * (at + 1) for at in best]
    at_end = sum(at == len(ends) - 1 for at in best)
    edge = f", the last one for {at_end} of {len(best)} bases" if at_end else ""
    return f"{text(estimate(shares[best, np.arange(len(best))].tolist()), 1, 100)} % after {int(np.median(steps)):,} updates{edge}"


PATH = ("the study's LoRA r=8", "LoRA r=8 on q, o", "LoRA r=8", "full on projections", "full")
STEPS = ("rate, scale and decay", "layers", "the rank limit", "embeddings and norms")


def path(summary: Summary) -> list[tuple[str, np.ndarray]]:
    """(what changes, points [U]) from the study's LoRA after ten epochs to full fine-tuning after fewer updates: one path through the arms."""
    found = [_ends(summary, STUDY)[-1], *(row(summary, "arms", arm) for arm in PATH[1:])]
    means = [100 * right(summary, one).mean(axis=1) for one in found]
    return [(name, b - a) for name, a, b in zip(STEPS, means[:-1], means[1:], strict=True)]


def _cause(summary: Summary, command: str) -> Claim:
    """Whether what LoRA lacks is mostly its rank, and whether more parameters close the gap."""
    found = dict(path(summary))
    whole = sum(found.values())
    half, quick = (0.5 * whole).tolist(), (found["rate, scale and decay"] + found["layers"]).tolist()
    over, under = (found["the rank limit"].tolist(), half), (half, quick)
    facts = holm([
        more("of the points from the study's LoRA to full the rank limit has over half: its minus half of all", *over, digits=1),
        more("rate, scale, decay and layers have under half: half of all minus theirs", *under, digits=1),
    ])  # fmt: skip
    told = ", ".join(f"{name} {text(estimate(points.tolist()), 1)}" for name, points in found.items())
    told += _after_most_epochs(summary)
    of_sizes = "; ".join(_by_size(summary))
    sizes = f"; full minus LoRA r = 8, one base a size: {of_sizes}" if of_sizes else ""
    return settled(
        "S4.7", "therefore LoRA depends on over-parameterisation, which a 20 M model lacks", facts, len(whole), command,
        more=f"; points: {told}, in all {text(estimate(whole.tolist()), 1)}{sizes}",
    )  # fmt: skip


def _after_most_epochs(summary: Summary) -> str:
    """What the first step of the path is where the study's LoRA has had its most epochs, on the bases that had them."""
    with contextlib.suppress(NotRun):
        longest = _ends(summary, STUDY, "many epochs")[-1]
        study, tuned = (100 * right(summary, of).mean(axis=1) for of in (longest, row(summary, "arms", PATH[1])))
        step = tuned[: len(study)] - study
        return f" ({STEPS[0]} {text(estimate(step.tolist()), 1)} after {longest['steps']:,} updates of the study's, {len(study)} bases)"
    return ""


def _by_size(summary: Summary) -> list[str]:
    sizes = dict.fromkeys(one["size"] for one in summary["rows"] if one["part"] == "sizes")
    pairs = {size: [row(summary, "sizes", arm, size=size) for arm in ("full", "LoRA r=8")] for size in sizes}
    return [
        f"{size} {_against(size, summary, *pair).shown}{_below_gate(summary, pair[0])}" for size, pair in pairs.items()
    ]


def _below_gate(summary: Summary, full: Row) -> str:
    """Where full fine-tuning does not follow at a size, nothing is said of LoRA there."""
    share = 100 * right(summary, full).mean()
    return f" (full has {share:.1f} %, below the gate: not testable)" if share < GATE else ""
