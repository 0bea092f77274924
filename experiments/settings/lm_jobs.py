"""Settings of one language model's fine-tuning."""

import dataclasses

LINEAR = ("*_proj",)  # every linear layer of a decoder layer


RATES = {"LoRA": 2e-3, "full": 3e-4, "head": 1e-3}


@dataclasses.dataclass(frozen=True)
class Settings:
    """`scale` is alpha / r; `targets` patterns of module paths; `batch_size` in rows of `length` tokens."""

    regime: str = "LoRA"
    rank: int = 8
    scale: float = 2.0
    targets: tuple[str, ...] = LINEAR
    learning_rate: float | None = None
    epochs: int = 3
    batch_size: int = 8
    length: int = 256
    limit: int | None = None
    seed: int = 0

    @property
    def rate(self) -> float:
        return RATES[self.regime] if self.learning_rate is None else self.learning_rate


PRESETS = {"smoke": Settings(epochs=1, limit=100, length=64), "quick": Settings(epochs=1), "full": Settings()}
