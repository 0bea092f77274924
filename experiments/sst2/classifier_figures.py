"""Table and figure of one BERT's fine-tuning, from its summary."""

from typing import Any

from etils import epath

from experiments.common.figures import spectrum


def table(summary: dict[str, Any]) -> str:
    """What was trained, and how well it does."""
    s, data = summary["settings"], summary["data"]
    rank = f", rank {s['rank']}" if s["rank"] else ""
    share = summary["parameters"] / summary["base_parameters"]
    return "\n".join(
        [
            f"{s['regime']}{rank}, seed {s['seed']}: {summary['parameters']:,} parameters ({100 * share:.2f} % of the model's), "
            f"{s['epochs']} x {summary['sentences']:,} sentences in batches of {summary['batch_size']}, "
            f"learning rate {s['learning_rate']:g}",
            f"validation accuracy: {100 * summary['accuracy']:.2f} % of {data['validation']:,} sentences; before training "
            f"{100 * summary['accuracies'][0]:.2f} %, always the commoner class {100 * summary['majority']:.2f} %",
        ]
    )


def draw(summary: dict[str, Any], folder: epath.Path) -> list[epath.Path]:
    """What LoRA learned, layer by layer; nothing else: a single run is told by its table."""
    return [spectrum.draw(summary["spectrum"], folder / "spectrum.png")] if summary.get("spectrum") else []
