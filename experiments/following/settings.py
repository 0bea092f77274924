"""Settings of S4."""

import dataclasses

from experiments.common.errors import UserError
from experiments.lm import pretraining_settings

VOCABULARY = 3200  # one tokenizer for all sizes
BATCH = 7  # rows of 128 tokens, which hold about 32 items: the study's batch
SMALL_BATCH = 2  # about 8 items


@dataclasses.dataclass(frozen=True)
class Settings:
    """`bases` of `size` are pretrained, each with a seed of its own, and one of each of `other_sizes`; each is taught by every arm with `seeds`.

    `items` are learned from; `tuning` choose rates and are followed; `held_out` of each kind are measured. `steps` are of every arm but the
    study's own, which sees the items `epochs` times; `long_steps` are for the arms that are trained until the tuning items gain no more.
    """

    pretraining: pretraining_settings.Settings = pretraining_settings.PRESETS["full"]
    size: str = "1M"
    other_sizes: tuple[str, ...] = ("0.3M", "3M")
    bases: int = 5
    seeds: int = 2
    items: int = 12_000
    tuning: int = 460
    held_out: int = 100  # of each kind
    general_rows: int = 64
    length: int = 128
    steps: int = 2000
    long_steps: int = 8000
    ranks: tuple[int, ...] = (1, 4, 8, 16, 64)
    tuning_seeds: int = 2
    widenings: int = 3
    lora_rates: tuple[float, ...] = (3.1e-3, 5.6e-3, 1e-2)
    full_rates: tuple[float, ...] = (1.8e-3, 3.1e-3, 5.6e-3)
    epochs: tuple[int, ...] = (1, 10, 50)
    study_ranks: tuple[int, ...] = (8, 16)
    doses: tuple[int, ...] = (3, 7, 13, 23)  # kinds taught at once
    dose_ranks: tuple[int, ...] = (1, 4, 16)
    open_pairs: int = 8000
    open_held_out: int = 1000
    open_steps: int = 750
    prompts: int = 500

    def __post_init__(self):
        if self.seeds * self.bases < 2:
            raise UserError("--seeds: a verdict needs at least two runs.")

    def base(self, size: str, seed: int) -> pretraining_settings.Settings:
        """How a base is pretrained."""
        return dataclasses.replace(self.pretraining, size=size, seed=seed)
