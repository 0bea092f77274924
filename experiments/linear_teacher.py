"""S2, part I: compares LoRA on a linear teacher with the best error of rank r, on four kinds of inputs; a fixed alpha with alpha = c r in
the first steps; and adapters on several layers with their bound.

python experiments/linear_teacher.py --preset=quick     # 2 minutes on 2 cores: writes runs/linear_teacher-*/
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # a clone runs where it lies

from experiments.common import cli  # first, as it takes over Ctrl-C

# isort: split

from experiments.common.flags import define_integers
from experiments.common.options import by_preset, define_common
from experiments.linear.settings import PRESETS

define_common(by_preset(PRESETS, "seeds"))
define_integers("ranks", f"ranks of the sweep; {by_preset(PRESETS, 'ranks')}")


def run() -> None:
    from experiments.linear import command as linear_teacher

    linear_teacher.run()


if __name__ == "__main__":
    cli.run(run)
