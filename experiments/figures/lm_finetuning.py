"""Table and figure of one language model's fine-tuning, from its summary."""

from typing import Any

from etils import epath

from experiments.figures import spectrum


def table(summary: dict[str, Any]) -> str:
    """What was trained, and how well it answers."""
    share = 100 * summary["parameters"] / summary["base_parameters"]
    left_out = ", ".join(f"{count:,} {why}" for why, count in summary["left_out"].items() if count) or "none"
    lines = [
        f"{summary['regime']}: {summary['parameters']:,} parameters ({share:.2f} % of the model's), {summary['train_pairs']:,} "
        f"questions of {summary['source']}; left out: {left_out}",
        f"{summary['steps_per_epoch'] * summary['epochs'][-1]} steps of {summary['seconds_per_step']:.2f} s; memory of the program "
        f"{summary['peak_bytes'] / 2**20:,.0f} MiB",
        f"held-out answers, nats a token: {summary['loss'][0]:.3f} before, {summary['loss'][-1]:.3f} after",
    ]
    if summary["rates"]:
        lines.append("outputs: " + ", ".join(f"{100 * share:.0f} % {kind}" for kind, share in summary["rates"].items()))
    return "\n".join(lines + [f"  {one['question']!r} -> {one['answer']!r}" for one in summary["outputs"][:3]])


def draw(summary: dict[str, Any], folder: epath.Path) -> list[epath.Path]:
    """What LoRA learned, layer by layer; nothing else: a single run is told by its table."""
    return [spectrum.draw(summary["spectrum"], folder / "spectrum.png")] if summary.get("spectrum") else []
