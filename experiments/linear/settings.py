"""Settings of the linear teacher."""

import dataclasses

from experiments.common.errors import UserError

D = 64
DECAY = 0.9  # sigma_i = DECAY^i of W* - W0
RULES = ("alpha = c r", "alpha fixed")


@dataclasses.dataclass(frozen=True)
class Settings:
    """`alpha` is that of the fixed rule; c is its alpha/r at r = 1, so both rules agree there."""

    ranks: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    seeds: int = 10
    steps: int = 8000
    blocks: int = 80
    learning_rate: float = 1e-2
    alpha: float = 1.0
    strategy: str = "auto"

    def __post_init__(self):
        if max(self.ranks) >= D:
            raise UserError(
                f"--ranks: {max(self.ranks)} is not below {D}, the teacher's own rank, where nothing is left to learn."
            )


PRESETS = {
    "smoke": Settings(ranks=(1, 4, 16), seeds=2, steps=600, blocks=6),
    "quick": Settings(seeds=5, steps=4000, blocks=40),
    "full": Settings(),
}
