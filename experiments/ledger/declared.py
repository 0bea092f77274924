"""What was declared of each claim before its reference run: `declared.toml`, read."""

import dataclasses
import functools
import pathlib
import tomllib

FILE = pathlib.Path(__file__).with_name("declared.toml")


@dataclasses.dataclass(frozen=True)
class Declared:
    """What a claim's test is: the unit that is sampled, what is compared, the margin, and what was chosen after a look at the numbers."""

    date: str
    unit: str
    asks: str
    margin: float | None = None
    after_a_look: str = ""

    def __str__(self) -> str:
        margin = "" if self.margin is None else f"; margin {self.margin:g}"
        looked = f"; chosen after a look: {self.after_a_look}" if self.after_a_look else ""
        return f"{self.asks}{margin} (declared {self.date}){looked}"


@functools.cache
def _all() -> dict[str, Declared]:
    found = tomllib.loads(FILE.read_text(encoding="utf-8"))
    return {id: Declared(**{**entry, "date": str(entry["date"])}) for id, entry in found.items()}


def of(id: str) -> Declared:
    """What `declared.toml` says of a claim; KeyError where it says nothing, as a claim without a declared test has none.

    >>> of("S2.5").unit
    'training seed and validation sentence, both a sample; one base'
    """
    return _all()[id]
