"""Table and figure of a language model's pretraining, from its summary."""

from typing import Any

import numpy as np
from etils import epath

from experiments.common.figures import style


def table(summary: dict[str, Any]) -> str:
    """What was trained on what, and how well it predicts held-out text."""
    waiting, speed = summary["share_waiting_for_data"], summary["tokens_per_second"]
    lines = [
        f"{summary['settings']['size']}: {summary['parameters']:,} parameters, {summary['vocab_size']:,} tokens in the vocabulary",
        f"trained on {summary['train_tokens']:,} tokens x {summary['settings']['epochs']}, {summary['steps']:,} steps"
        + ("" if speed is None else f"; {speed:,.0f} tokens a second (median)")
        + ("" if waiting is None else f", {100 * waiting:.2f} % of the time waiting for data"),
        f"held out ({summary['held_out_tokens']:,} tokens): {summary['held_out_loss']:.3f} nats a token, "
        f"{summary['bits_per_byte']:.3f} bits per byte; a trigram model {summary['trigram_loss']:.3f} nats",
    ]
    return "\n".join(lines)


def draw(summary: dict[str, Any], folder: epath.Path) -> list[epath.Path]:
    """Held-out and training loss, with the trigram model's."""
    figure, axis = style.new()
    held_out = [line["held_out"] for line in summary["history"]]
    steps = np.linspace(0, summary["steps"], len(held_out))
    axis.plot(steps, held_out, label="held out (a sample)")
    axis.plot(steps[1:], [line["loss"] for line in summary["history"][1:]], alpha=0.6, label="training")
    axis.axhline(summary["trigram_loss"], color="grey", linestyle="--", label="trigram model, held out")
    axis.set_xlabel("steps")
    axis.set_ylabel("nats a token")
    axis.set_title(f"Pretraining of {summary['settings']['size']}", fontsize=9)
    axis.legend(frameon=False)
    return [style.save(figure, folder / "losses.png")]
