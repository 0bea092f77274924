"""Settings of one fine-tuned BERT."""

import dataclasses
import math
from typing import TYPE_CHECKING

from experiments.common.errors import UserError
from experiments.sst2.settings import LENGTHS, REFERENCE_RANK, TARGETS

if TYPE_CHECKING:
    from lora_jax.models.bert import BertConfig


# Learning rates at BERT-tiny's width, of those the study tunes. A wider BERT takes lower ones, in proportion, as published
# ones do: full fine-tuning 5e-5 to 3e-4 at width 128 (Turc et al. 2019), 2e-5 to 5e-5 at 768 (Devlin et al. 2018).
RATES = {"LoRA": 1e-3, "head only": 1e-2, "full": 1e-4, "LoRA all linear": 1e-3}
RATES_WIDTH = 128


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a run trains; None is settled by the base (`for_base`), or by the data (`batch_size`).

    `scale` is c = alpha/r; `train_limit` None is all sentences.
    """

    regime: str = "LoRA"
    rank: int | None = None
    learning_rate: float | None = None
    seed: int = 0
    epochs: int = 3
    batch_size: int | None = None
    train_limit: int | None = None
    max_tokens: int | None = None
    scale: float = 2.0
    dropout: float = 0.0
    warm_up: float = 0.06
    weight_decay: float = 0.01

    def __post_init__(self):
        if self.regime not in RATES:
            raise UserError(f"--regime: there is no regime {self.regime!r}; there are {', '.join(RATES)}.")
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise UserError(f"--learning_rate: {self.learning_rate} is no positive number.")

    @property
    def has_adapter(self) -> bool:
        return self.regime in TARGETS

    @property
    def caches(self) -> bool:
        """Whether the head trains on features of the encoder, computed once; dropout then acts on the head alone."""
        return self.regime == "head only"

    def for_base(self, config: "BertConfig") -> "Settings":
        """With all that the base settles, so that a default and the same value given are the same run.

        Raises:
          UserError: for a rank above the model's width, or more tokens than it has positions.
        """
        rank, most = self.rank or REFERENCE_RANK, config.max_position_embeddings
        if self.has_adapter and rank > config.hidden_size:
            raise UserError(
                f"--rank: {rank} is above {config.hidden_size}, the width of this model; a larger rank adds nothing."
            )
        if (self.max_tokens or 0) > most:
            raise UserError(f"--max_tokens: {self.max_tokens} is above {most}, the positions that this model has.")
        narrow = min(1.0, RATES_WIDTH / config.hidden_size)
        return dataclasses.replace(
            self,
            rank=rank if self.has_adapter else None,
            learning_rate=self.learning_rate or float(f"{RATES[self.regime] * narrow:.2g}"),
            max_tokens=self.max_tokens or min(LENGTHS[-1], most),
        )


PRESETS = {"smoke": Settings(epochs=1, train_limit=1500), "quick": Settings(), "full": Settings(epochs=5)}
