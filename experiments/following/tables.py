"""S4's table, and what the models say side by side, from its summary. Nothing here imports jax."""

from collections.abc import Iterator

from experiments.common.statistics import estimate, text
from experiments.following import claims, read
from experiments.following.read import BOTH, STORED, WORDS, Row, Summary

ASKED = {"question": "use of the question", "instruction": "of the instruction", "discrimination": "told apart, of ten"}


def table(summary: Summary) -> str:
    """The gate, a line for each arm and end, what was taught of open questions, and how learning rates were chosen."""
    gate = claims.claims(summary, "")[0]
    lines = [
        f"{claims.OPEN_GATE if gate.verdict == 'holds' else claims.CLOSED_GATE}: {gate.statement}: {gate.verdict}; {gate.reason}",
        f"right: % of the scored held-out items, exact; constant answers get {100 * _constant(summary):.0f} %; unit: base",
        f"{'part':<11} {'taught':<12} {'size':<10} {'arm':<28} {'lr':>8} {'parameters':>10} {'steps':>6} {'bases':>5}  {'words':<20} "
        f"{'and phrasings':<20} {'stored facts':<20} {'general, nats':<22} s/step",
    ]
    lines += [_line(summary, row) for row in summary["rows"] if "right" in row]
    lines += _questions(summary)
    return "\n".join([*lines, *_said(summary), *_tuning(summary)])


def _constant(summary: Summary) -> float:
    shares = [share for kind, share in summary["constant"].items() if kind not in read.NOT_SCORED]
    return sum(shares) / len(shares)


def _line(summary: Summary, row: Row) -> str:
    rate = f"{row['rate']:.3g}" if row.get("rate") else ""
    words, both = (text(estimate(read.share(row, part)), 1, 100) for part in (WORDS, BOTH))
    stored = read.right(summary, row, STORED, kinds=("opposite",)) if _has_stored(summary, row) else None
    told = "" if stored is None else text(estimate(stored.mean(axis=1).tolist()), 1, 100)
    lost = text(estimate(read.general(row).tolist()), 3) if "curves" in row else ""
    cost = f"{row['seconds_per_step']:.3f}" if "seconds_per_step" in row else ""
    taught = f"{row['kinds']} kinds" if "kinds" in row else row["name"]
    bases = read.bases_of(row)
    return (
        f"{row['part']:<11} {taught:<12} {row['size']:<10} {row['arm']:<28} {rate:>8} {row.get('parameters', 0):>10,} {row['steps']:>6} {bases:>5}  "
        f"{words:<20} {both:<20} {told:<20} {lost:<22} {cost}"
    )


def _has_stored(summary: Summary, row: Row) -> bool:
    """Facts are taught with all kinds alone."""
    return "kinds" not in row and STORED in row["right"] and STORED in summary["kinds"]


def _questions(summary: Summary) -> Iterator[str]:
    for part in dict.fromkeys(row["part"] for row in summary["rows"] if "asked" in row):
        rows = [row for row in summary["rows"] if row["part"] == part]
        base = rows[0]
        yield (
            f"{part} questions, {summary['questions'][part]['source']}: the base's own, then each arm's minus the base's, nats an answer "
            "(told apart: a share)"
        )
        asked = {what: said for what, said in ASKED.items() if read.asked(base, "held out", what).size}
        for row in rows:
            yield f"  {row['arm']:<28} " + "; ".join(
                f"{said} {_asked(row, base, what)}" for what, said in asked.items()
            )


def _asked(row: Row, base: Row, what: str) -> str:
    values = read.asked(row, "held out", what).mean(axis=1)
    if row is not base:
        values = values - read.asked(base, "held out", what).mean(axis=1)
    return text(estimate(values.tolist()), 2)


def _said(summary: Summary) -> Iterator[str]:
    yield f"outputs to {summary['prompts']} open prompts, blank / repetitive / copied, %, mean over bases: greedily; at 0.7"
    for row in summary["rows"]:
        if "said" in row:
            ways = [
                " / ".join(f"{100 * sum(read.rates(row, way, kind)) / len(row['said']):.0f}" for kind in ("blank", "repetitive", "copied"))
                for way in row["said"][0]
            ]  # fmt: skip
            yield f"  {row['part']:<11} {row['arm']:<28} {row['steps']:>6}  {'; '.join(ways)}"


def _tuning(summary: Summary) -> Iterator[str]:
    yield "learning rates, by the tuning items (mean over seeds):"
    for line in summary["tuning"]:
        edge = ", at the edge of what was tried" if line.get("at_edge") else ""
        yield f"  {line['size']:<10} {line['lesson']:<10} {line['arm']:<28} {line['best']:.3g} ({line['by']}{edge})"


def outputs(summary: Summary) -> str:
    """What each model says to the same prompts, for people to read."""
    lines = [
        "# S4: what the models say",
        "",
        "Greedily, the first base and seed, at the end of each arm's training. No prompt was trained on.",
    ]
    for number, prompt in enumerate(summary["shown"]):
        lines += ["", f"## {number + 1}. {_one_line(prompt)}", ""]
        lines += [f"- **{name}**: {_one_line(said[number]) or '(blank)'}" for name, said in summary["outputs"].items()]
    return "\n".join(lines) + "\n"


def _one_line(said: str) -> str:
    """Without line breaks, and with what Markdown would take for its own escaped."""
    shown = " / ".join(part.strip() for part in said.splitlines() if part.strip())
    return "".join("\\" + c if c in "\\`*_<>[]#|" else c for c in shown)
