"""S2, part I: LoRA on a linear teacher against the best rank-r error, and the artifact of a fixed alpha.

python experiments/linear_teacher.py --preset=quick     # 30 s on 2 cores: writes runs/linear_teacher-*/
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # a clone runs where it lies

from absl import flags

from experiments.common import cli, main
from experiments.common.flags import define_common, define_integers
from experiments.figures import linear as figures
from experiments.studies import linear

define_common()
define_integers("ranks", None, "ranks of the sweep")
FLAGS = flags.FLAGS


def run() -> None:
    settings = main.settings_from_flags(linear.PRESETS, ranks=main.chosen("ranks"))
    main.execute("linear_teacher", settings, lambda folder: linear.summary(folder, settings), figures)


if __name__ == "__main__":
    cli.run(run)
