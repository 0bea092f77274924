"""What `--preset=smoke` says of its results: nothing."""

from absl import flags

FLAGS = flags.FLAGS
NOTE = "Smoke test: this shows that the program runs, and teaches nothing; for results take --preset=quick or full."


def is_on() -> bool:
    """Whether this is such a run; never where nothing has flags (a test, a notebook)."""
    return "preset" in FLAGS and FLAGS["preset"].value == "smoke"


def noted(text: str) -> str:
    """A table, under the note where it is due."""
    return f"{NOTE}\n{text}" if is_on() else text
