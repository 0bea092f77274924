"""Settings of S2, part II: of our BERT-tiny, or whatever --bert names, and of MiniLM."""

import dataclasses
from typing import Any

from experiments.common.errors import UserError

REGIMES = ("head only", "LoRA", "full", "from scratch", "LoRA all linear")
TARGETS = {"LoRA": ("query", "value"), "LoRA all linear": ("bert/encoder/*",)}
REFERENCE_RANK = 8  # where the scaling rules meet, and the rank of all linear layers
# Of all five multiples of 8 these waste least on SST-2's training set, whose longest phrase has 66 of BERT's tokens: 25% of
# what is computed, against 31% in four lengths, 22% in six, and 82% where all are padded to 72.
LENGTHS = (8, 16, 24, 40, 72)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How every regime is trained: AdamW with decoupled weight decay, linear warm-up, then linear decay to 0."""

    epochs: int
    batch_size: int
    warm_up: float  # share of the steps
    weight_decay: float
    blocks_per_epoch: int = 4  # measurements


@dataclasses.dataclass(frozen=True)
class Settings:
    """`..._rates` are what each regime's search begins with, ascending, a single one being taken as it is; `scale` is c = alpha/r.

    A limit of None is all of the split; without `scaling_seeds` the part on scaling rules is left out. With `fixed_alpha` the ranks of LoRA
    are trained with alpha fixed, too, in the setting of the study.
    """

    ranks: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    regimes: tuple[str, ...] = REGIMES
    seeds: int = 10
    full_seeds: int = 5  # at most: a run of full fine-tuning takes as long as two or three of LoRA
    control_seeds: int = 3  # at most; from scratch and all linear layers stand beside the study
    tuning_seeds: int = 2
    widenings: int = 4  # of a range of rates whose best is at its edge
    epochs: int = 2
    train_limit: int | None = None
    score_limit: int | None = None  # of the tuning split, and of validation
    batch_size: int = 32
    scale: float = 2.0
    dropout: float = 0.0
    warm_up: float = 0.06
    weight_decay: float = 0.01
    head_rates: tuple[float, ...] = (3.2e-3, 5.8e-3, 1e-2)
    lora_rates: tuple[float, ...] = (5.6e-4, 1e-3, 1.8e-3)
    full_rates: tuple[float, ...] = (1.8e-5, 3.2e-5, 5.8e-5)
    scratch_rates: tuple[float, ...] = (1.8e-5, 3.2e-5, 5.8e-5)
    measurements: int = 4  # per epoch
    scaling_limit: int = 6000
    scaling_epochs: int = 2
    scaling_seeds: int = 10
    fixed_alpha: bool = False
    truncates: bool = True  # full fine-tuning's update, rank by rank
    lengths: tuple[int, ...] = LENGTHS
    strategy: str = "auto"

    def __post_init__(self):
        unknown = [name for name in self.regimes if name not in REGIMES]
        if unknown:
            raise UserError(f"--regimes: there is no regime {unknown[0]!r}; there are {', '.join(REGIMES)}.")

    def recipe(self, **changes: Any) -> Recipe:
        return Recipe(
            **{
                "epochs": self.epochs,
                "batch_size": self.batch_size,
                "warm_up": self.warm_up,
                "weight_decay": self.weight_decay,
                "blocks_per_epoch": self.measurements,
            }
            | changes
        )

    def rates(self, regime: str) -> tuple[float, ...]:
        own = {"head only": self.head_rates, "full": self.full_rates, "from scratch": self.scratch_rates}
        return own.get(regime, self.lora_rates)

    def seeds_of(self, regime: str) -> int:
        most = {"full": self.full_seeds, "from scratch": self.control_seeds, "LoRA all linear": self.control_seeds}
        return min(self.seeds, most.get(regime, self.seeds))


QUICK_LENGTHS = (48,)  # a short run is mostly compilation: every length is a program more


PRESETS = {
    "smoke": Settings(
        (1, 4), seeds=2, epochs=1, train_limit=1500, head_rates=(1e-2,), lora_rates=(2e-3,),
        full_rates=(3e-4,), scratch_rates=(3e-4,), scaling_limit=1000, scaling_epochs=1, scaling_seeds=2,
        lengths=QUICK_LENGTHS,
    ),
    "quick": Settings(
        (1, 8, 32), ("head only", "LoRA", "full", "from scratch"), seeds=3, control_seeds=2, epochs=2,
        train_limit=1000, score_limit=400, measurements=1, head_rates=(5.8e-3,), lora_rates=(1.8e-3,),
        full_rates=(1.8e-4,), scratch_rates=(3e-4,), scaling_limit=320, scaling_epochs=1, scaling_seeds=2,
        lengths=QUICK_LENGTHS,
    ),
    "full": Settings(train_limit=30_000),  # of 62,000: with all of them the ten seeds and two tuning seeds of each rank take three hours
}  # fmt: skip
# The second base, MiniLM, three times as wide: on a part of the sentences, without controls, and at lower rates. A larger BERT's step is
# forty times as many products.
MINILM = Settings(
    ranks=(1, 8, 32), regimes=("head only", "LoRA", "full"), seeds=5, epochs=2, train_limit=1000, tuning_seeds=1, scaling_seeds=0,
    score_limit=1000, measurements=1,
    head_rates=(1e-3, 1.8e-3, 3.2e-3), lora_rates=(5.6e-4, 1e-3, 1.8e-3),
    full_rates=(3.2e-5, 5.8e-5, 1e-4), lengths=(16, 40, 72),
)  # fmt: skip
OF_MINILM = {
    "smoke": dataclasses.replace(
        MINILM, ranks=(1, 8), seeds=2, epochs=1, train_limit=330, score_limit=100, measurements=1, head_rates=(1e-3,), lora_rates=(1e-3,),
        full_rates=(5e-5,), lengths=(24, 40),
    ),
    "quick": dataclasses.replace(
        MINILM, seeds=2, train_limit=330, score_limit=109, measurements=1, head_rates=(1e-3,), lora_rates=(1e-3,),
        full_rates=(5e-5,), lengths=(40,),
    ),
    "full": MINILM,
}  # fmt: skip
