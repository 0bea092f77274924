"""Settings of the linear teacher."""

import dataclasses

from experiments.common.errors import UserError

D = 64
DECAY = 0.9  # sigma_i = DECAY^i of the update that is to be learned
RULES = ("alpha = c r", "alpha fixed")
INPUTS = ("white", "anisotropic", "few", "noisy")
LAYERS = ("orthogonal", "Gaussian")
EARLY_STEPS = (5, 10, 15, 20, 30, 50, 70, 100, 150, 200)  # multiples of the first, which is a block
SHARED_RATE = 1e-2


def _rates(below: int, above: int, factor: float = 1.5) -> tuple[float, ...]:
    return tuple(SHARED_RATE * factor**power for power in range(-below, above + 1))


@dataclasses.dataclass(frozen=True)
class Settings:
    """Three parts: to convergence on every kind of inputs; the first steps at every rate; several layers.

    `alpha` is that of the fixed rule; c is its alpha/r at r = 1, so both rules agree there. Without `rates`, or without `depths`, that part is
    left out.
    """

    ranks: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    seeds: int = 10
    alpha: float = 1.0
    learning_rate: float = SHARED_RATE
    strategy: str = "auto"
    inputs: tuple[str, ...] = INPUTS
    steps: int = 8000
    blocks: int = 80
    rates: tuple[float, ...] = _rates(2, 9)
    tuning_seeds: int = 3
    depths: tuple[int, ...] = (2, 4)
    layer_ranks: tuple[int, ...] = (1, 2, 4, 8)
    deep_steps: int = 4000

    def __post_init__(self):
        if max(self.ranks) >= D:
            raise UserError(
                f"--ranks: {max(self.ranks)} is not below {D}, the teacher's own rank, where nothing is left to learn."
            )
        if self.rates and self.learning_rate not in self.rates:
            raise UserError(f"learning_rate {self.learning_rate:g} is none of the rates {self.rates}.")


PRESETS = {
    "smoke": Settings(
        ranks=(1, 4, 16), seeds=2, steps=600, blocks=6, rates=_rates(0, 6, 2.5)[::2], tuning_seeds=1, depths=(2,),
        layer_ranks=(1, 4), deep_steps=400,
    ),
    "quick": Settings(seeds=5, steps=3000, blocks=30, tuning_seeds=2, deep_steps=2000),
    "full": Settings(),
}  # fmt: skip
