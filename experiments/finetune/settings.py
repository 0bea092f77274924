"""Settings of a pretrained language model's fine-tuning."""

import dataclasses

from experiments.common.projections import LINEAR

RATES = {"lora": 3e-3, "full": 1e-4, "head": 1e-3}
INITS = ("lora", "orthogonal", "pissa", "olora")  # of lora_jax.LoRAConfig
DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Settings:
    """`alpha` None is 2 r; `targets` patterns of module paths; `batch_size` in rows of `length` tokens, `accumulate` of them a step.

    `steps` says when training ends, `epochs` where it does not. `items` are made of the data set of ours, `limit` are taken of a user's;
    `held_out` are measured, `asked` of them are answered in words. `system` is what every conversation begins with.
    """

    regime: str = "lora"
    rank: int = 8
    alpha: float | None = None
    targets: tuple[str, ...] = LINEAR
    dora: bool = False
    rslora: bool = False
    init: str = "lora"
    dropout: float = 0.0
    lora_plus: float | None = None
    dtype: str = "float32"
    param_dtype: str | None = None
    length: int = 128
    batch_size: int = 8
    accumulate: int = 1
    epochs: int = 1
    steps: int | None = None
    learning_rate: float | None = None
    warm_up: float = 0.03
    limit: int | None = None
    items: int = 1030
    held_out: int = 180
    asked: int = 32
    max_new_tokens: int = 24
    system: str | None = None
    seed: int = 0

    @property
    def rate(self) -> float:
        return RATES[self.regime] if self.learning_rate is None else self.learning_rate


PRESETS = {
    "smoke": Settings(length=64, batch_size=2, items=40, held_out=16, asked=4, max_new_tokens=8, steps=4),
    "quick": Settings(),
    "full": Settings(epochs=3, items=8000, held_out=600, asked=64),
}
