"""Table, figures and side-by-side outputs of S4, from its summary."""

from typing import Any

import numpy as np
from etils import epath

from experiments.common import smoke
from experiments.common.figures import style
from experiments.common.figures.regimes import points
from experiments.common.recording import write_text
from experiments.common.statistics import estimate, text
from experiments.lm import cost_figures

KINDS = {"blank": "#bbbbbb", "repetitive": "#d62728", "copied": "#ff7f0e", "other": "#2ca02c"}
COLORS = {"tuned LoRA": "#1f77b4", "tuned full": "#2ca02c", "original": "#d62728"}
EPOCHS = (1, 2, 5, 10, 20, 50)
OUTPUTS = "tiny_lm_outputs.md"


def label(row: dict[str, Any]) -> str:
    """What a row is called: its name, and its rank where it has one."""
    return row["name"] + (f", r = {row['rank']}" if row["rank"] else "")


def last_rows(summary: dict[str, Any], data: str) -> list[dict[str, Any]]:
    """Each treatment's row of its last epoch, in order."""
    found = {label(row): row for row in summary["rows"] if row["data"] == data}
    return list(found.values())


def table(summary: dict[str, Any]) -> str:
    """One line per treatment and measured epoch, then the gaps and how learning rates were chosen."""
    lines = []
    for data, about in summary["questions"].items():
        left_out = ", ".join(f"{count:,} {why}" for why, count in about["left_out"].items() if count) or "none"
        lines += [
            f"{data}: {about['source']}; {about['train']:,} pairs trained on, {about['tuning']} for tuning, {about['held out']} "
            f"held out; left out: {left_out}",
            f"  {'treatment':<26} {'lr':>7} {'epoch':>5} {'steps':>6} {'parameters':>10}  {'answers, nats/token':<24} {'general text':<24} "
            f"{'discrimination, %':<20} {'blank/repetitive/copied, %':<26} n",
        ]
        lines += [_line(row) for row in summary["rows"] if row["data"] == data]
        lines += cost_figures.lines(
            {label(curve): curve for curve in summary.get("curves", ()) if curve["data"] == data}
        )
    lines.append("gap: LoRA minus full, tuned both, held-out answers, bits per byte, paired by seed")
    for found in summary["gaps"]:
        lines.append(
            f"  {found['size']:>5} ({found['base_parameters']:,} parameters), r = {found['rank']:>3}: {text(found['gap'], 4)}, "
            f"full {np.mean(found['full']):.3f}, base {found['base']:.3f}, n = {found['gap']['n']}"
        )
    return "\n".join([*lines, *_tuning(summary)])


def _line(row: dict[str, Any]) -> str:
    rate = "" if row["rate"] is None else f"{row['rate']:g}"
    shares = "/".join(f"{100 * np.mean(row['rates'][kind]):.0f}" for kind in ("blank", "repetitive", "copied"))
    answers, general = (text(estimate(row["losses"][name]), 3) for name in ("answers", "general"))
    return (
        f"  {label(row):<26} {rate:>7} {row['epoch']:>5} {row['steps']:>6} {row['parameters']:>10,}  {answers:<24} {general:<24} "
        f"{text(estimate(row['discrimination']), 1, 100):<20} {shares:<26} {len(row['discrimination'])}"
    )


def _tuning(summary: dict[str, Any]) -> list[str]:
    lines = ["tuning split, nats a token at each learning rate after the same training (one seed):"]
    for line in summary["tuning"]:
        of_rate = ", ".join(
            f"{rate} {'diverged' if loss is None else f'{loss:.3f}'}" for rate, loss in line["losses"].items()
        )
        rank = f" r = {line['rank']}" if line["rank"] else ""
        edge = ", the edge of its range" if line["at_edge"] else ""
        lines.append(
            f"  {line['size']} {line['data']} {line['regime']}{rank}: {of_rate or 'nothing to choose from'}; taken: {line['best']:g}{edge}"
        )
    return lines


def draw(summary: dict[str, Any], folder: epath.Path) -> list[epath.Path]:
    """gap.png; of the whole study also losses of each kind of questions, judged.png and tiny_lm_outputs.md."""
    found = [_gap(summary, folder / "gap.png")]
    if summary["rows"]:
        found += [_losses(summary, data, folder / f"losses_{data}.png") for data in summary["questions"]]
        found.append(_judged(summary, folder / "judged.png"))
        write_text(folder / OUTPUTS, smoke.noted(outputs(summary)))
        found.append(folder / OUTPUTS)
    return found


def _color(row: dict[str, Any]) -> str:
    return next((color for name, color in COLORS.items() if row["name"].startswith(name)), "black")


def _losses(summary, data: str, path: epath.Path) -> epath.Path:
    """Held-out answers and general text against epochs."""
    figure, axes = style.new(11, 4.5, columns=2)
    base = next(row for row in summary["rows"] if row["data"] == data)
    curves = [curve for curve in summary["curves"] if curve["data"] == data]
    for axis, name in zip(axes, ("answers", "general"), strict=True):
        for curve in curves:
            line = "^:" if "batch" in curve["name"] else "s--" if curve["rank"] == 16 else "o-"
            estimates = [estimate(seeds) for seeds in curve["losses"][name][1:]]
            _means(axis, curve["epochs"][1:], estimates, line, color=_color(curve), label=label(curve))
        axis.axhline(base["losses"][name][0], color="grey", linestyle=":", label="base")
        axis.set_xscale("log")
        ticks = [epoch for epoch in EPOCHS if epoch <= max(curve["epochs"][-1] for curve in curves)]
        axis.set_xticks(ticks, list(map(str, ticks)))
        axis.minorticks_off()
        axis.set_xlabel("epochs")
        axis.set_ylabel("nats a token")
        axis.set_title(f"{data}: held-out {'answers' if name == 'answers' else 'general text'}", fontsize=9)
    axes[0].legend(frameon=False, fontsize=8)
    return style.save(figure, path)


def _means(axis, x, estimates, line: str, **kwargs: Any) -> None:
    axis.errorbar(x, [e["mean"] for e in estimates], yerr=style.error_bars(estimates), fmt=line, capsize=3, **kwargs)


def _judged(summary, path: epath.Path) -> epath.Path:
    """At the end of each treatment: what its outputs are, and how often it tells the true answer from nine others."""
    rows = last_rows(summary, "instructions")
    figure, (left, right) = style.new(11, 4.5, columns=2)
    names, x = [label(row) for row in rows], np.arange(len(rows))
    below = np.zeros(len(rows))
    for kind, color in KINDS.items():
        shares = np.asarray([100 * np.mean(row["rates"][kind]) for row in rows])
        left.bar(x, shares, bottom=below, color=color, label=kind)
        below += shares
    left.set_ylabel("outputs to held-out prompts, %")
    left.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncol=len(KINDS))
    points(right, list(x), [estimate(row["discrimination"]) for row in rows], "o", color="black")
    right.axhline(10, color="grey", linestyle=":", label="chance")
    right.set_ylabel("true answer likeliest of ten, %")
    right.legend(frameon=False, fontsize=8)
    for axis in (left, right):
        axis.set_xticks(x, names, rotation=30, ha="right", fontsize=8)
    return style.save(figure, path)


def _gap(summary, path: epath.Path) -> epath.Path:
    """LoRA minus full against rank at the main size, and against the model's size at the main rank."""
    s = summary["settings"]
    figure, (left, right) = style.new(11, 4.5, columns=2)
    by_rank = [found for found in summary["gaps"] if found["size"] == s["size"]]
    by_size = [found for found in summary["gaps"] if found["rank"] == s["rank"]]
    for axis, of, against in ((left, by_rank, "rank"), (right, by_size, "base_parameters")):
        _means(axis, [one[against] for one in of], [one["gap"] for one in of], "o-", color=COLORS["tuned LoRA"])
    style.rank_axis(left, [found["rank"] for found in by_rank])
    left.set_title(f"{s['size']} model", fontsize=9)
    right.set_xscale("log")
    right.set_xticks([found["base_parameters"] for found in by_size], [found["size"] for found in by_size])
    right.minorticks_off()
    right.set_xlabel("parameters of the model")
    right.set_title(f"r = {s['rank']}", fontsize=9)
    for axis in (left, right):
        axis.axhline(0, color="grey", linestyle=":")
        axis.set_ylabel("tuned LoRA minus tuned full, bits per byte")
    return style.save(figure, path)


def outputs(summary: dict[str, Any]) -> str:
    """What each model says to the same prompts, side by side, for people to read."""
    lines = [
        "# S4: what the models say",
        "",
        f"A {summary['base_parameters']:,}-parameter model, greedily, first seed, after the last epoch of each treatment. "
        "None of the prompts was trained on.",
    ]
    for data, found in summary["outputs"].items():
        lines += ["", f"## {data}"]
        for number, question in enumerate(found["questions"]):
            lines += ["", f"### {number + 1}. {_one_line(question)}", ""]
            lines += [f"- **{name}**: {_one_line(said[number]) or '(blank)'}" for name, said in found["said"].items()]
    return "\n".join(lines) + "\n"


def _one_line(text: str) -> str:
    """Without line breaks, and with what Markdown would take for its own escaped."""
    shown = " / ".join(part.strip() for part in text.splitlines() if part.strip())
    return "".join("\\" + c if c in "\\`*_<>[]#|" else c for c in shown)
