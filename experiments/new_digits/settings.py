"""Settings of S3."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Settings:
    """The base of the study (567,434 parameters, Adam 1e-3, batch 64) and how much is run.

    `held_out` training images are learned from by nobody: on them rates, replay and epochs are chosen, with the first `tuning_seeds` bases.
    """

    hidden: tuple[int, ...] = (512, 256, 128)
    dropout: float = 0.2
    base_epochs: int = 10
    batch_size: int = 64
    seeds: int = 10
    new_digits: tuple[int, ...] = (8, 9)
    held_out: int = 5000
    tuning_seeds: int = 2
    rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    replays: tuple[float, ...] = (0.1, 0.4, 0.8, 1.6, 4.0)  # old images per new one, drawn afresh each epoch
    kept: tuple[float, ...] = (0.4, 1.6)  # the same, always the same images
    most_steps: int = 9200  # of each of these; ratio 4 is then 10 epochs, ratio 0.1 is 46
    epoch_share: float = 1.0  # of the study's epochs
    one_by_one: int = 32  # the batches of the first epoch after each of which errors are counted,
    then: int = 8  # and from there on after every so many
    strategy: str = "auto"

    @property
    def old_digits(self) -> tuple[int, ...]:
        return tuple(digit for digit in range(10) if digit not in self.new_digits)

    @property
    def groups(self) -> dict[str, tuple[int, ...]]:
        """The digits that are scored together, by the names the summary gives them."""
        return {"old": self.old_digits, "new": self.new_digits, "overall": tuple(range(10))}


PRESETS = {
    "smoke": Settings(
        base_epochs=1, seeds=2, held_out=500, rates=(1e-3,), replays=(0.8,), kept=(), most_steps=40, epoch_share=0.2
    ),
    "quick": Settings(
        base_epochs=2, seeds=3, held_out=500, rates=(1e-3,), replays=(0.4, 1.6), kept=(), most_steps=400, epoch_share=0.4,
        one_by_one=0, then=16,
    ),
    "full": Settings(),
}  # fmt: skip
