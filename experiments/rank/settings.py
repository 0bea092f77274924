"""Settings of the rank sweep on MNIST."""

import dataclasses
from typing import Any

from experiments.common.errors import UserError

HIDDEN, DROPOUT = (512, 256, 128), 0.2
REGIMES = ("head only", "LoRA", "full")


@dataclasses.dataclass(frozen=True)
class Settings:
    """`steps` batches of `batch_size`, drawn from all classes, in `blocks` blocks; scale c = alpha/r is constant.

    Each seed has its own base. Each regime and each rank chooses from rates four to a decade, widened up to `widenings` times for as long as
    its best is the lowest or the highest.
    """

    ranks: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    head_rates: tuple[float, ...] = (1.8e-3, 3.2e-3, 5.6e-3)
    lora_rates: tuple[float, ...] = (5.6e-4, 1e-3, 1.8e-3, 3.2e-3, 5.6e-3)
    full_rates: tuple[float, ...] = (1.8e-4, 3.2e-4, 5.6e-4)
    widenings: int = 2
    seeds: int = 3
    base_epochs: int = 3
    steps: int = 300
    blocks: int = 6
    batch_size: int = 64
    scale: float = 2.0
    strategy: str = "auto"

    def __post_init__(self):
        if max(self.ranks) > max(HIDDEN):
            raise UserError(f"--ranks: {max(self.ranks)} is above {max(HIDDEN)}, the largest rank that any layer has.")

    def rates(self, regime: str) -> tuple[float, ...]:
        """What a regime tries first."""
        return {"head only": self.head_rates, "LoRA": self.lora_rates, "full": self.full_rates}[regime]


def named(rates: tuple[float, ...] | None) -> dict[str, Any]:
    """The settings that --learning_rates sets: rates that are named are those that are tried."""
    return {} if rates is None else {"head_rates": rates, "lora_rates": rates, "full_rates": rates, "widenings": 0}


PRESETS = {
    "smoke": Settings((1, 4), (3.2e-3,), (1e-3,), (3.2e-4,), widenings=0, seeds=2, base_epochs=1, steps=20, blocks=2),
    "quick": Settings(),
    "full": Settings(
        head_rates=(3.2e-3, 5.6e-3, 1e-2, 1.8e-2, 3.2e-2),
        lora_rates=(3.2e-4, 5.6e-4, 1e-3, 1.8e-3, 3.2e-3, 5.6e-3),
        full_rates=(3.2e-4, 5.6e-4, 1e-3, 1.8e-3, 3.2e-3),
        widenings=6, seeds=10, base_epochs=10, steps=1200,
    ),
}  # fmt: skip
