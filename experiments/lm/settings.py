"""Settings of S4."""

import dataclasses

from experiments.common.errors import UserError
from experiments.lm import pretraining_settings

CANDIDATES = 10  # that a question is judged with, the true answer and nine to other questions: chance is a tenth


@dataclasses.dataclass(frozen=True)
class Original:
    """What the study did: LoRA on its square projections, no alpha, one constant learning rate. Batches in examples."""

    ranks: tuple[int, ...] = (8, 16)
    rate: float = 1e-4
    batch: int = 32
    epochs: tuple[int, ...] = (1, 10, 50)
    small_batch: int = 8
    small_epochs: tuple[int, ...] = (1, 10)


@dataclasses.dataclass(frozen=True)
class Settings:
    """`size` is what the verdicts are of, `sizes` are where the gap is measured; `pretraining` holds for all, but the size.

    `pairs` are trained on, `tuning` and `held_out` pairs are not; `asked` of the held-out ones are answered in words.
    """

    size: str = "3M"
    sizes: tuple[str, ...] = ("0.3M", "1M", "3M")
    pretraining: pretraining_settings.Settings = pretraining_settings.PRESETS["full"]
    original: Original = Original()
    pairs: int = 400
    tuning: int = 200
    held_out: int = 200
    asked: int = 100
    general_rows: int = 64
    length: int = 256
    batch: int = 32  # examples
    seeds: int = 3
    epochs: int = 5
    rank: int = 8
    ranks: tuple[int, ...] = (1, 4, 8, 16, 64, 256)
    scale: float = 2.0
    lora_rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2)
    full_rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    widenings: int = 3  # of a range of rates, at most, while its best is at an edge

    def __post_init__(self):
        if self.size not in self.sizes or self.rank not in self.ranks:
            raise UserError(f"--sizes and --ranks: {self.size} and rank {self.rank} must be among them.")
        if not CANDIDATES <= self.asked <= self.held_out:
            raise ValueError(f"asked is {self.asked}: {CANDIDATES} at least, {self.held_out} at most.")

    def base(self, size: str) -> pretraining_settings.Settings:
        return dataclasses.replace(self.pretraining, size=size)


PRESETS = {
    "smoke": Settings(
        "0.3M", ("0.3M",), pretraining_settings.PRESETS["smoke"], Original(epochs=(1, 2), small_epochs=(1, 2)),
        pairs=200, tuning=40, held_out=40, asked=12, general_rows=8, length=64, seeds=2, epochs=1, ranks=(8, 64),
        lora_rates=(3e-3,), full_rates=(1e-3,),
    ),
    "quick": Settings(
        "0.3M", ("0.3M", "1M"), pretraining_settings.PRESETS["quick"], Original(epochs=(1, 10), small_epochs=(1,)),
        pairs=400, tuning=100, held_out=100, asked=100, general_rows=32, length=128, epochs=3, ranks=(1, 8, 64),
    ),
    "full": Settings(),
}  # fmt: skip
