"""Figure and table of a pretraining run, from its summary."""

from typing import Any

from etils import epath

from experiments.common.figures import style

NAMES = {"mlm": "masked LM, nats", "words": "words, 1 - cosine", "sentence": "sentences, 1 - cosine"}


def table(summary: dict[str, Any]) -> str:
    """What was trained, on how much, and the held-out losses."""
    held_out = ", ".join(f"{NAMES[name]} {value:.3f}" for name, value in summary["held_out"].items())
    waste = 1 - summary["tokens"] / summary["padded_tokens"]
    return "\n".join(
        [
            f"{summary['parameters']:,} parameters, vocabulary {summary['vocab_size']:,}",
            f"{summary['examples']:,} examples, {summary['tokens']:,} tokens ({100 * waste:.0f} % padding), {summary['steps']:,} steps "
            f"in {summary['training_s']:.0f} s; data {summary['data_s']:.0f} s",
            f"held out: {held_out}; token frequencies alone: {summary['unigram_loss']:.3f} nats",
        ]
    )


def draw(summary: dict[str, Any], folder: epath.Path) -> list[epath.Path]:
    """losses.png: held-out losses against steps."""
    names = list(summary["held_out"])
    figure, axes = style.new(width=4 * len(names), height=3.5, columns=len(names))
    steps = [summary["steps"] * i / (len(summary["history"]) - 1) for i in range(len(summary["history"]))]
    for axis, name in zip([axes] if len(names) == 1 else axes, names, strict=True):
        axis.plot(steps, [line[name] for line in summary["history"]])
        axis.set_xlabel("steps")
        axis.set_title(f"held out: {NAMES[name]}", fontsize=9)
        if name == "mlm":
            axis.axhline(summary["unigram_loss"], color="#7f7f7f", linestyle="--", label="token frequencies alone")
            axis.legend(frameon=False, fontsize=8)
    return [style.save(figure, folder / "losses.png")]
