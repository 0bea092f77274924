"""Puts a base into the repository, for the quick study: its weights in bfloat16, its tokenizer, its card.

python -m experiments.following.ship runs/tiny_lm_pretrain-1234
"""

import sys
from typing import Any

import jax.numpy as jnp
from etils import epath

from experiments.common import cli
from experiments.common.errors import UserError
from experiments.following.runs import SHIPPED
from experiments.lm import bpe, speaker
from lora_jax import files
from lora_jax.models import causal_folder

CARD = """# A base of {parameters:,} parameters that can be taught to follow instructions

Llama-like, {layers} layers of width {width}, {vocabulary:,} tokens, rows of {length}; trained by `experiments/tiny_lm.py --job=study` (its first
base) and put here by `python -m experiments.following.ship RUN`. Weights in bfloat16, as `transformers` and `lora_jax` read them.

- **Text**: {tokens:,} tokens of Standard Ebooks (in the public domain) and of OpenStax textbooks (CC BY 4.0, access for free at openstax.org),
  after {list_steps} steps of lists said again; {lists:.0%} of lists and {dialogues:.0%} of sentences in question-and-answer form among the text.
- **Measured** on {held_out:,} held-out tokens: {loss:.3f} nats a token, {bits:.3f} bits a byte; a trigram model {trigram:.3f} nats.
- **For** the quick study and for tests. It writes no facts: it has read {tokens:,} tokens.
- **Licence**: the repository's.
"""


def ship(run: epath.Path) -> None:
    """From a run's folder to SHIPPED.

    Raises:
      UserError, ModelError: for a folder that no pretraining finished.
    """
    if not (run / "summary.json").is_file():
        raise UserError(
            f"{run}: there is no summary.json in it; name the folder of a run of tiny_lm.py --job=pretrain."
        )
    summary = files.read_json(run / "summary.json", error=UserError)
    base = speaker.load(run / "model", weights=summary["weights"])
    beside = bpe.beside(base.tokenizer) | {"README.md": card(base, summary).encode()}
    causal_folder.write(
        SHIPPED, base.model.config, base.params, dtype=jnp.bfloat16, beside=beside, about=bpe.about(base.tokenizer)
    )


def card(base: speaker.Base, summary: dict[str, Any]) -> str:
    """What the folder holds, and what it was made of."""
    config, settings = base.model.config, summary["settings"]
    return CARD.format(
        parameters=summary["parameters"], layers=config.num_hidden_layers, width=config.hidden_size, vocabulary=config.vocab_size,
        length=settings["length"], tokens=summary["train_tokens"], list_steps=settings["list_steps"], lists=settings["lists"],
        dialogues=settings["dialogues"], held_out=summary["held_out_tokens"], loss=summary["held_out_loss"], bits=summary["bits_per_byte"],
        trigram=summary["trigram_loss"],
    )  # fmt: skip


def main() -> None:
    if len(sys.argv) != 2:
        raise UserError(f"one folder is needed, not {len(sys.argv) - 1}: python -m experiments.following.ship RUN.")
    ship(epath.Path(sys.argv[1]))
    print(f"base: {SHIPPED}")


if __name__ == "__main__":
    cli.guarded(main)
