"""Settings of the rank sweep on MNIST."""

import dataclasses

from experiments.common.errors import UserError

HIDDEN, DROPOUT = (512, 256, 128), 0.2


@dataclasses.dataclass(frozen=True)
class Settings:
    """`steps` batches of `batch_size`, drawn from all ten digits, in `blocks` blocks; scale c = alpha/r is constant.

    The rates of each regime are centred where it does best: LoRA wants about ten times the rate of full fine-tuning.
    """

    ranks: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    head_rates: tuple[float, ...] = (3e-3, 1e-2, 3e-2)
    lora_rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2)
    full_rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3)
    seeds: int = 5
    base_epochs: int = 3
    steps: int = 300
    blocks: int = 6
    batch_size: int = 64
    scale: float = 2.0
    strategy: str = "auto"

    def __post_init__(self):
        if max(self.ranks) > max(HIDDEN):
            raise UserError(f"--ranks: {max(self.ranks)} is above {max(HIDDEN)}, the largest rank that any layer has.")


PRESETS = {
    "smoke": Settings((1, 4), (3e-3,), (1e-3,), (3e-4,), seeds=2, base_epochs=1, steps=20, blocks=2),
    "quick": Settings(),
    "full": Settings(full_rates=(3e-4, 1e-3, 3e-3), seeds=10, base_epochs=10, steps=600),
}
