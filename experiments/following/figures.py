"""S4's figures, from its summary: each where its part was run."""

import itertools

import numpy as np
from etils import epath

from experiments.common import smoke
from experiments.common.figures import style
from experiments.common.figures.regimes import points
from experiments.common.recording import write_text
from experiments.common.statistics import estimate
from experiments.following import claims, read, tables
from experiments.following.read import BOTH, WORDS, Row, Summary
from experiments.following.tables import table as table

OUTPUTS = "following_outputs.md"
PARTS = {WORDS: ("o", "new words"), BOTH: ("s", "new words and new phrasings")}
ARMS = ("base", claims.STUDY, "LoRA r=8", "full")
COLORS = {claims.STUDY: "#9467bd", "LoRA r=8": "#1f77b4", "full": "#d62728", "base": "#2ca02c"}
SCORE = "held-out items right, %"
QUESTIONS = ("open", "medical")


def draw(summary: Summary, folder: epath.Path) -> list[epath.Path]:
    """what_trains.png, kinds.png, and rank, doses, learning and questions as far as they were run; following_outputs.md."""
    there = {row["part"] for row in summary["rows"]}
    found = [_what_trains(summary, folder / "what_trains.png"), _kinds(summary, folder / "kinds.png")]
    for parts, drawn, name in (
        (("doses",), _doses, "doses.png"),
        (("converged",), _learning, "learning.png"),
        (QUESTIONS, _questions, "questions.png"),
    ):
        if there.intersection(parts):
            found.append(drawn(summary, folder / name))
    write_text(folder / OUTPUTS, smoke.noted(tables.outputs(summary)))
    return [*found, folder / OUTPUTS]


def _last(summary: Summary) -> dict[str, Row]:
    """Of ARMS, as far as they were run, the row after as many updates as all arms, or of the study's LoRA after the most epochs on every base."""
    found = {row["arm"]: row for row in summary["rows"] if row["part"] == "arms"}
    found |= {row["arm"]: row for row in _studys(summary) if row["name"] != "many epochs"}
    return {arm: found[arm] for arm in ARMS if arm in found}


def _studys(summary: Summary) -> list[Row]:
    """The study's LoRA after each number of epochs."""
    rows = [row for row in summary["rows"] if row["part"] == "the study's" and row["arm"] == claims.STUDY]
    few = [row for row in rows if row["name"] == "epochs"] or [row for row in rows if row["name"] == "one epoch"]
    return few + [row for row in rows if row["name"] == "many epochs"][-1:]


def _shares(row: Row, part: str = WORDS) -> dict:
    return estimate(read.share(row, part))


def _what_trains(summary: Summary, path: epath.Path) -> epath.Path:
    """Every arm's accuracy, with words and with phrasings held out, from the study's LoRA to full fine-tuning."""
    of_arms = [row for row in summary["rows"] if row["part"] == "arms"]
    rows = [of_arms[0], *_studys(summary), *sorted(of_arms[1:], key=_place)]
    names = [_name(row) for row in rows]
    figure, axis = style.new(10, 5)
    for part, (mark, said) in PARTS.items():
        shift = 0.0 if part == WORDS else 0.2
        color = {"color": "black"} if part == WORDS else {"color": "grey", "mfc": "white"}
        points(
            axis,
            [at + shift for at in range(len(rows))],
            [_shares(row, part) for row in rows],
            mark,
            label=said,
            **color,
        )
    axis.axhline(claims.GATE, color="grey", linestyle=":", label="the gate, for full fine-tuning")
    axis.set_xticks(range(len(rows)), names, rotation=35, ha="right", fontsize=8)
    axis.set_ylabel(SCORE)
    epochs = ", the study's LoRA after its epochs" if len(rows) > len(of_arms) else ""
    axis.set_title(
        f"Exact match after {of_arms[-1]['steps']:,} updates{epochs} ({_n(of_arms[-1])})",
        fontsize=10,
    )
    axis.set_ylim(-3, 100)
    axis.legend(frameon=False, fontsize=8, loc="upper left")
    return style.save(figure, path)


ORDER = ("LoRA r=8 on q, o", "embeddings alone", "LoRA r=1", "LoRA r=4", "LoRA r=8", "LoRA r=16", "LoRA r=64", "LoRA r=8 + embeddings, norms",
         "full on projections", "full")  # fmt: skip


def _place(row: Row) -> int:
    return ORDER.index(row["arm"]) if row["arm"] in ORDER else len(ORDER)


def _name(row: Row) -> str:
    if row["arm"] == "base":
        return "base"
    more = f", {row['steps']:,} updates" if row["part"] == "the study's" else ""
    more += f", {_bases(row)}" if row["name"] == "many epochs" else ""
    return f"{row['arm']}{more}\n{row['parameters']:,} train"


def _bases(row: Row) -> str:
    return f"{read.bases_of(row)} bases" if read.bases_of(row) > 1 else "one base"


def _n(row: Row) -> str:
    return (
        f"mean and 95 % interval, n = {_bases(row)}"
        if read.bases_of(row) > 1
        else f"{_bases(row)}, {len(row['units'])} seeds averaged: no interval"
    )


def _kinds(summary: Summary, path: epath.Path) -> epath.Path:
    """What is followed, kind by kind."""
    rows = _last(summary)
    of_kind = {arm: read.by_kind(summary, row) for arm, row in rows.items()}
    kinds = sorted(of_kind["full"], key=lambda kind: (kind in read.NOT_SCORED, -of_kind["full"][kind]))
    figure, axis = style.new(10, 4.5)
    for arm in rows:
        axis.plot(
            range(len(kinds)),
            [100 * of_kind[arm][kind] for kind in kinds],
            "o",
            color=COLORS[arm],
            label=arm,
            alpha=0.8,
        )
    axis.plot(
        range(len(kinds)),
        [100 * summary["constant"].get(kind, np.nan) for kind in kinds],
        "_",
        color="black",
        label="a constant answer",
    )
    edge = sum(kind not in read.NOT_SCORED for kind in kinds) - 0.5
    axis.axvline(edge, color="grey", linestyle=":")
    axis.set_xticks(range(len(kinds)), kinds, rotation=40, ha="right", fontsize=8)
    axis.set_ylabel("items right, new words, %")
    axis.set_title(
        f"By kind of instruction; right of the dotted line: not in the score (means over the runs of {_bases(rows['full'])})",
        fontsize=10,
    )
    axis.legend(frameon=False, fontsize=8)
    return style.save(figure, path)


def _doses(summary: Summary, path: epath.Path) -> epath.Path:
    """Accuracy against how many kinds were taught, rank by rank: of the kinds of the smallest dose, and of all that were taught."""
    rows = [row for row in summary["rows"] if row["part"] == "doses"]
    figure, (left, right) = style.new(11, 4.5, columns=2)
    first = min(row["kinds"] for row in rows)
    _against_dose(left, rows, [row["of_first"] for row in rows])
    left.set_ylabel(f"held-out items of the first {first} kinds right, %")
    _against_dose(right, rows, [row["share"][WORDS] for row in rows])
    right.set_ylabel("of all scored kinds that are taught, %")
    left.set_title(
        f"At which dose does a rank fall behind? (one base, {len(rows[0]['of_first'])} seeds; dots: each)", fontsize=10
    )
    right.set_title(f"{rows[0]['steps']:,} updates at every dose: fewer kinds are seen more often", fontsize=10)
    left.legend(frameon=False, fontsize=8)
    return style.save(figure, path)


def _against_dose(axis, rows: list[Row], shares: list[list[float]]) -> None:
    """A line for each arm, its seeds as dots."""
    blues = itertools.cycle(("#9ecae1", "#4292c6", "#08519c"))
    for arm in dict.fromkeys(row["arm"] for row in rows):
        color = COLORS["full"] if arm == "full" else next(blues)
        kinds = [row["kinds"] for row in rows if row["arm"] == arm]
        of_arm = 100 * np.asarray(
            [of for row, of in zip(rows, shares, strict=True) if row["arm"] == arm]
        )  # [doses, seeds]
        axis.plot(kinds, of_arm.mean(axis=1), "o-", color=color, label=arm)
        for seed in of_arm.T:
            axis.plot(kinds, seed, ".", color=color, alpha=0.5)
    axis.set_xticks(sorted({row["kinds"] for row in rows}))
    axis.set_xlabel("kinds taught, as many items of each")


def _learning(summary: Summary, path: epath.Path) -> epath.Path:
    """Long training: what is learned against updates, and what is forgotten against what is learned."""
    rows = {row["arm"]: row for row in summary["rows"] if row["part"] == "converged"}  # the last end of each
    figure, (left, right) = style.new(11, 4.5, columns=2)
    for arm, row in rows.items():
        color = COLORS[arm]
        learned, general = (read.by_base(row, row["curves"][name]) for name in ("right", "general"))
        lost = general - general[:, :1]
        points(left, [0, *row["ends"]], [estimate(of.tolist()) for of in learned.T], "o-", color=color, label=arm)
        right.plot(100 * learned.mean(axis=0), lost.mean(axis=0), "o-", color=color, label=arm)
        for one, other in zip(learned, lost, strict=True):
            right.plot(100 * one, other, "-", color=color, alpha=0.25, linewidth=0.8)
    left.set_xlabel("updates")
    left.set_ylabel("tuning items right, all kinds, %")
    left.set_title(f"How far, and how fast ({_n(row)})", fontsize=10)
    right.set_xlabel("tuning items right, all kinds, %")
    right.set_ylabel("general text: nats a token, minus the base's")
    right.set_title("What is forgotten at equal learning (thin: each base)", fontsize=10)
    left.legend(frameon=False, fontsize=8)
    return style.save(figure, path)


def _questions(summary: Summary, path: epath.Path) -> epath.Path:
    """Open questions: use of the question and of the instruction, each arm minus the base."""
    parts = [part for part in QUESTIONS if any(row["part"] == part for row in summary["rows"])]
    arms = ARMS[1:]
    figure, axes = style.new(5 * len(parts) + 1, 4.5, columns=len(parts))
    axes = np.atleast_1d(axes)
    for axis, part in zip(axes, parts, strict=True):
        base = read.row(summary, part, "base")
        for shift, (what, mark) in enumerate((("question", "o"), ("instruction", "s"))):
            if not read.asked(base, "held out", what).size:  # no question with an input
                continue
            gains = [read.asked(read.row(summary, part, arm), "held out", what).mean(axis=1) - read.asked(base, "held out", what).mean(axis=1)
                     for arm in arms]  # fmt: skip
            found = [estimate(gain.tolist()) for gain in gains]
            axis.errorbar(np.arange(len(arms)) + 0.15 * shift, [e["mean"] for e in found], yerr=style.error_bars(found), fmt=mark, capsize=3,
                          color=("black", "#ff7f0e")[shift], label=f"use of the {what}")  # fmt: skip
        axis.axhline(0, color="grey", linestyle=":")
        axis.set_xticks(range(len(arms)), arms, rotation=15, fontsize=8)
        axis.set_ylabel("nats an answer, minus the base's")
        axis.set_title(f"{part} questions ({_n(read.row(summary, part, 'full'))})", fontsize=10)
    axes[0].legend(frameon=False, fontsize=8)
    return style.save(figure, path)
