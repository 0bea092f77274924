"""Table and figure of S4's over-parameterised end, from its summary."""

import numpy as np
from etils import epath

from experiments.common import statistics
from experiments.common.figures import style
from experiments.following.figures import COLORS
from experiments.following.read import BOTH, WORDS, Row, Summary, by_kind, right

PARTS = {WORDS: "new words", BOTH: "new words and phrasings"}


def table(summary: Summary) -> str:
    """A line for each arm, and how rates were chosen."""
    count = len(summary["kinds"][WORDS])
    lines = [
        f"{summary['base']['name']}, {summary['base']['parameters']:,} parameters; {summary['train_rows']:,} rows to learn from",
        f"right: % of {count} held-out items of the scored kinds, exact; intervals of 95 % over items (Wilson)",
        f"{'arm':<10} {'lr':>8} {'parameters':>12} {'steps':>6}  {'words':<20} {'and phrasings':<20} {'nats a token':>12} s/step",
    ]
    lines += [_line(summary, row) for row in summary["rows"]]
    lines.append("learning rates, by nats a token of the tuning items, one run each:")
    for line in summary["tuning"]:
        tried = "".join(f"; {rate} {-score:.3f}" for rate, score in line["accuracy"].items() if score is not None)
        edge = ", at the edge of what was tried" if line["at_edge"] else ""
        lines.append(f"  {line['arm']:<10} {line['best']:.3g} ({line['by']}{edge}){tried}")
    return "\n".join(lines)


def _line(summary: Summary, row: Row) -> str:
    shares = [statistics.text(_share(summary, row, part), 1, 100) for part in PARTS]
    rate = f"{row['rate']:.3g}" if row.get("rate") else ""
    cost = f"{row['seconds_per_step']:.2f}" if row.get("seconds_per_step") else ""
    return (
        f"{row['arm']:<10} {rate:>8} {row.get('parameters', 0):>12,} {row['steps']:>6}  {shares[0]:<20} {shares[1]:<20} "
        f"{row['nats'][WORDS][0]:>12.3f} {cost}"
    )


def _share(summary: Summary, row: Row, part: str) -> dict:
    of = right(summary, row, part)[0]
    return statistics.wilson(int(of.sum()), len(of))


def draw(summary: Summary, folder: epath.Path) -> list[epath.Path]:
    """kinds.png: what is followed, kind by kind, with new words."""
    rows = {row["arm"]: row for row in summary["rows"]}
    of_kind = {arm: by_kind(summary, row) for arm, row in rows.items()}
    kinds = sorted(of_kind["full"], key=lambda kind: -of_kind["full"][kind])
    figure, axis = style.new(9, 4.5)
    for shift, arm in enumerate(rows):
        at = np.arange(len(kinds)) + 0.12 * (shift - 1)
        label = f"{arm}: {100 * np.mean(list(of_kind[arm].values())):.0f} %"
        axis.plot(at, [100 * of_kind[arm][kind] for kind in kinds], "o", color=COLORS[arm], label=label)
    axis.set_xticks(range(len(kinds)), kinds, rotation=40, ha="right", fontsize=8)
    axis.set_ylabel("held-out items right, %")
    each = len(summary["kinds"][WORDS]) // len(kinds)
    name = summary["base"]["name"].split("/")[-1]
    axis.set_title(
        f"{name} after {rows['full']['steps']} updates: {each} items a kind, new words, one run each", fontsize=10
    )
    axis.legend(frameon=False, fontsize=8)
    return [style.save(figure, folder / "kinds.png")]
