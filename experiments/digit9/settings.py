"""How much of S0 and S1 each preset runs."""

import dataclasses

DIGIT = 9


@dataclasses.dataclass(frozen=True)
class Size:
    """How many seeds."""

    seeds: int


PRESETS = {"smoke": Size(2), "quick": Size(3), "full": Size(10)}
