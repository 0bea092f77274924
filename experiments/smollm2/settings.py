"""Settings of S4's over-parameterised end."""

import dataclasses

from experiments.finetune.settings import Settings as Training

ARMS = {"LoRA r=8": "lora", "full": "full"}  # name -> regime


@dataclasses.dataclass(frozen=True)
class Settings:
    """`items` are learned from; `tuning` choose each arm's rate, in runs of `tuning_steps`; `held_out` of each scored kind are measured
    after `steps`.

    A batch is `batch_size` rows of `length` tokens.
    """

    items: int = 4000
    tuning: int = 92
    held_out: int = 30
    length: int = 128
    batch_size: int = 8
    steps: int = 120
    tuning_steps: int = 40
    lora_rates: tuple[float, ...] = (1.7e-3, 3e-3, 5.4e-3)
    full_rates: tuple[float, ...] = (5.6e-5, 1e-4, 1.8e-4)
    widenings: int = 1
    dtype: str = "float32"  # of what is computed
    param_dtype: str | None = None  # of the base's parameters; by default as they are stored

    def rates(self, arm: str) -> tuple[float, ...]:
        return self.lora_rates if ARMS[arm] == "lora" else self.full_rates

    def training(self, arm: str, rate: float, steps: int) -> Training:
        """How one run trains."""
        return Training(
            regime=ARMS[arm], length=self.length, batch_size=self.batch_size, steps=steps, learning_rate=rate
        )


PRESETS = {
    "smoke": Settings(46, 23, 1, length=64, batch_size=2, steps=2, tuning_steps=2, lora_rates=(3e-3,), full_rates=(1e-4,)),
    "quick": Settings(460, 46, 3, batch_size=4, steps=6, lora_rates=(3e-3,), full_rates=(1e-4,)),
    "full": Settings(),
}  # fmt: skip
