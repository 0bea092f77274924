"""Table and figures of a language model's fine-tuning, from its summary."""

from typing import Any

from etils import epath

from experiments.common import statistics
from experiments.common.figures import spectrum, style

SHOWN = 6  # samples in the table


def table(summary: dict[str, Any]) -> str:
    """What was trained, what it took, and what came of it."""
    share = 100 * summary["parameters"] / summary["base_parameters"]
    left_out = ", ".join(f"{count:,} {why}" for why, count in summary["left_out"].items() if count) or "none"
    lines = [
        f"{summary['base']['name']}, {summary['regime']}: {summary['parameters']:,} parameters trained ({share:.2f} % of the model's)",
        f"{summary['train_items']:,} conversations of {summary['source']} in {summary['rows']:,} rows; left out: {left_out}",
        _cost(summary),
        *measured(summary["held_out"], {"before": summary["before"], "after": summary["after"]}, summary["difference"]),
        _agreement(summary["agreement"]),
        *(_kinds(summary["kinds"]) if summary["kinds"] else ()),
    ]
    return "\n".join([*filter(None, lines), *_samples(summary["samples"])])


def _cost(summary: dict[str, Any]) -> str:
    if summary["seconds_per_step"] is None:
        return f"{summary['steps']:,} steps"
    return f"{summary['steps']:,} steps of {summary['seconds_per_step']:.2f} s, {summary['tokens_per_second']:,.0f} tokens/s"


def measured(count: int, of: dict[str, dict[str, Any]], difference: dict[str, Any] | None) -> list[str]:
    """Loss and accuracy of each, with intervals, and the paired difference."""
    width = max(map(len, [*of, "difference"]))
    lines = [f"held out, n = {count:,}; intervals of 95 %"]
    for name, values in of.items():
        loss, accuracy = statistics.text(values["loss"]), statistics.text(values["accuracy"], digits=1, factor=100)
        lines.append(f"  {name:{width}}  {loss} nats a token, {accuracy} % exact")
    if difference is not None:
        loss = statistics.text(difference["loss"])
        accuracy = statistics.text(difference["accuracy"], digits=1, factor=100)
        lines.append(f"  {'difference':{width}}  {loss} nats a token, {accuracy} points (paired)")
    return lines


def _agreement(counts: dict[str, int]) -> str:
    if not counts["n"]:
        return ""
    return f"exact by teacher forcing; greedy generation agrees in {counts['alike']} of {counts['n']} answers"


def _kinds(kinds: dict[str, dict[str, dict[str, int]]]) -> list[str]:
    """Right answers by kind, before -> after of all."""
    before, after = kinds["before"], kinds["after"]
    told = [f"{kind} {of['right']}->{after[kind]['right']}/{of['n']}" for kind, of in before.items()]
    return ["right by kind: " + ", ".join(told)]


def _samples(samples: list[dict[str, str]]) -> list[str]:
    lines = []
    for one in samples[:SHOWN]:
        lines += [f"  {one['question']!r}", f"    before {one['before']!r}", f"    after  {one['after']!r}"]
    return lines


def evaluated(result: dict[str, Any]) -> str:
    """What --job=evaluate found."""
    left_out = ", ".join(f"{count:,} {why}" for why, count in result["left_out"].items() if count)
    lines = measured(result["held_out"], result["voices"], result["difference"])
    samples = [f"  {one['question']!r} -> {one['said']!r}" for one in result["samples"][:SHOWN]]
    return "\n".join([*lines, *([f"left out: {left_out}"] if left_out else []), *samples])


def draw(summary: dict[str, Any], folder: epath.Path) -> list[epath.Path]:
    """Loss and accuracy, and the updates' singular values where there are any."""
    made = [_progress(summary, folder / "finetuning.png")]
    if summary.get("spectrum"):
        made.append(spectrum.draw(summary["spectrum"], folder / "spectrum.png"))
    return made


def _progress(summary: dict[str, Any], path: epath.Path) -> epath.Path:
    figure, (left, right) = style.new(10, 4, columns=2)
    steps = range(1, summary["steps"] + 1)
    left.plot(steps, summary["losses"], alpha=0.7, label="training, each step")
    losses = [summary[when]["loss"] for when in ("before", "after")]
    left.errorbar(
        [0, summary["steps"]], [e["mean"] for e in losses], style.error_bars(losses), fmt="o", capsize=4, color="black", label="held out"
    )  # fmt: skip
    left.set_xlabel("steps")
    left.set_ylabel("nats a token of answers")
    left.set_ylim(bottom=0)
    left.legend(frameon=False)
    shares = [summary[when]["accuracy"] for when in ("before", "after")]
    right.bar(
        ["before", "after"], [100 * e["mean"] for e in shares], color=[style.COLORS["base"], style.COLORS["LoRA"]],
        yerr=[[100 * value for value in side] for side in style.error_bars(shares)], capsize=4,
    )  # fmt: skip
    right.set_ylabel("exact answers, %")
    right.set_ylim(0, 100)
    right.set_title(f"n = {summary['held_out']:,} held-out items, 95 %", fontsize=9)
    figure.suptitle(f"{summary['base']['name']}, {summary['regime']}", fontsize=9)
    return style.save(figure, path)
