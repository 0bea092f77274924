"""The entries of experiments/, run in this process."""

import pathlib
import runpy
import sys

import pytest
from absl import flags

REPOSITORY = pathlib.Path(__file__).parents[2]
FOLDER = REPOSITORY / "experiments"
SHARED_TFDS = REPOSITORY.parent / "shared" / "tfds"


def execute(entry: str, *arguments: str) -> int:
    """The exit status of `python experiments/<entry> <arguments>`; its flags are forgotten afterwards."""
    known = set(flags.FLAGS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [entry, *arguments])
        try:
            runpy.run_path(str(FOLDER / entry), run_name="__main__")
        except SystemExit as error:
            return error.code or 0
        finally:
            for name in set(flags.FLAGS) - known:
                delattr(flags.FLAGS, name)
    return 0
