"""Settings of the best learning rate against the rank."""

import dataclasses

from experiments.common.errors import UserError

STEP = 1.5  # between neighbouring rates
UNIT = 1e-3  # every rate is UNIT * STEP^k, k a whole number: so that any two windows share theirs
RULES = ("alpha = c r", "alpha / sqrt(r)", "alpha fixed")
HORIZONS = ("short", "long")
PROBLEMS = ("linear", "mnist", "sst2")
HIDDEN = {
    "linear": 64,
    "mnist": 128,
    "sst2": 128,
}  # the narrowest side of an adapted kernel: a rank there is no longer low


@dataclasses.dataclass(frozen=True)
class Settings:
    """`window` rates for each rule and rank, `steps` of each horizon; at rank 1 all rules have the scale c = `scale`.

    `centre` is where the windows of rank 1 lie (in powers of STEP above UNIT), `tilt` by how many each doubling of the rank moves them under
    "alpha = c r"; a window whose best rate is at its edge is widened, so these only save time.
    """

    problem: str = "mnist"
    ranks: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    window: int = 12
    seeds: int = 10
    steps: tuple[int, int] = (100, 600)
    batch_size: int = 64
    base_epochs: int = 2
    scale: float = 2.0
    centre: int = 6
    tilt: float = -1.0
    full_centre: int = 0
    rounds: int = 3  # of widening, at most
    scored: int = 1000  # sentences, of SST-2, by which a rate is chosen, and as many that tell its loss
    strategy: str = "auto"

    def __post_init__(self):
        if max(self.ranks) > HIDDEN[self.problem] // 2:
            raise UserError(
                f"--ranks: {max(self.ranks)} is above {HIDDEN[self.problem] // 2}, half the width of the layers that --problem={self.problem} adapts."
            )

    def first(self, rule: str, rank: int) -> int:
        """The lowest power of STEP in the window of a rule and rank."""
        doublings = (rank.bit_length() - 1) if rank else 0
        steeper = {"alpha = c r": 0.0, "alpha / sqrt(r)": 0.85, "alpha fixed": 1.7}[
            rule
        ]  # 2^(1/2) and 2 in powers of STEP
        return self.centre + round(doublings * (self.tilt + steeper)) - self.window // 2

    def scale_of(self, rule: str, rank: int) -> float:
        """The factor of the low-rank update."""
        return self.scale / {"alpha = c r": 1.0, "alpha / sqrt(r)": rank**0.5, "alpha fixed": float(rank)}[rule]


def rate(power: int) -> float:
    """The learning rate of a power of STEP.

    >>> rate(0), rate(2)
    (0.001, 0.00225)
    """
    return float(f"{UNIT * STEP**power:.6g}")


_MNIST = Settings(centre=8, tilt=-0.7, full_centre=5)
_LINEAR = Settings(
    problem="linear", ranks=(1, 2, 4, 8, 16, 32), steps=(50, 300), scale=1.0, centre=9, tilt=-0.5, full_centre=5
)
_SST2 = Settings(
    problem="sst2",
    ranks=(1, 4, 16, 64),
    window=10,
    seeds=5,
    steps=(50, 250),
    batch_size=16,
    centre=5,
    full_centre=-1,
    strategy="sequential",
)


def presets(problem: str) -> dict[str, Settings]:
    """Of one problem."""
    full = {"linear": _LINEAR, "mnist": _MNIST, "sst2": _SST2}[problem]
    quick = dataclasses.replace(full, ranks=full.ranks[::2], seeds=3, steps=(50, 120), base_epochs=1)
    if problem == "mnist":
        quick = dataclasses.replace(quick, window=8)
    if problem == "sst2":  # a step takes ten times as long
        quick = dataclasses.replace(quick, window=5, seeds=2, steps=(20, 40), rounds=0, scored=200)
    smoke = dataclasses.replace(full, ranks=(1, 4), window=5, seeds=2, steps=(5, 10), base_epochs=1, rounds=0)
    return {"smoke": smoke, "quick": quick, "full": full}


PRESETS = {problem: presets(problem) for problem in PROBLEMS}
