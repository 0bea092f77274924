"""S0 and S1: fine-tunes on 100 batches of digit 9 alone, and measures what this breaks and what mends it.

python experiments/mnist_digit9.py --study=s1 --preset=full   # the exact setting of S1: 2.8 M parameters, rank 1
python experiments/mnist_digit9.py --study=s0 --preset=full   # a table of all mitigations
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # a clone runs where it lies

from experiments.common import cli  # first, as it takes over Ctrl-C

# isort: split

from experiments.common.flags import define_enum, define_integer
from experiments.common.options import by_preset, define_common, define_data
from experiments.digit9.settings import DIGIT, PRESETS

define_common(by_preset(PRESETS, "seeds"))
define_data()
define_enum("study", "which study to run", ["s0", "s1", "all"], default="s0")
define_integer("digit", f"the digit to fine-tune on, 0-9; by default {DIGIT}, as in the studies", least=0, most=9)


def run() -> None:
    from experiments.digit9 import command as mnist_digit9

    mnist_digit9.run()


if __name__ == "__main__":
    cli.run(run)
