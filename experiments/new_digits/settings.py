"""Settings of S3."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Settings:
    """The base of the study (567,434 parameters, Adam 1e-3, batch 64) and how much is run."""

    hidden: tuple[int, ...] = (512, 256, 128)
    dropout: float = 0.2
    base_epochs: int = 10
    batch_size: int = 64
    seeds: int = 10
    new_digits: tuple[int, ...] = (8, 9)
    replays: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 4.0)
    epoch_share: float = 1.0  # of the recipes' epochs
    strategy: str = "auto"

    @property
    def old_digits(self) -> tuple[int, ...]:
        return tuple(digit for digit in range(10) if digit not in self.new_digits)

    @property
    def groups(self) -> dict[str, tuple[int, ...]]:
        """The digits that are scored together, by the names the summary gives them."""
        return {"old": self.old_digits, "new": self.new_digits, "overall": tuple(range(10))}


PRESETS = {
    "smoke": Settings(base_epochs=1, seeds=2, replays=(0.8,), epoch_share=0.2),
    "quick": Settings(base_epochs=2, seeds=3, replays=(0.1, 0.8, 4.0), epoch_share=0.4),
    "full": Settings(),
}
