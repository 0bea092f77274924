"""S0 and S1: fine-tuning on 100 batches of digit 9 alone, what it breaks, and what mends it.

python experiments/mnist_digit9.py --study=s1 --preset=full   # the exact setting of S1: 2.8 M parameters, rank 1
python experiments/mnist_digit9.py --study=s0 --preset=full   # a table of all mitigations
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # a clone runs where it lies

from absl import flags

from experiments.common import cli, main
from experiments.common.flags import define_common, define_data
from experiments.figures import digit9 as figures
from experiments.studies import digit9

define_common()
define_data()
flags.DEFINE_enum("study", "s0", ["s0", "s1", "all"], "which study")
flags.DEFINE_integer("digit", None, "the digit to fine-tune on, 0-9; the studies take 9", lower_bound=0, upper_bound=9)
FLAGS = flags.FLAGS


def run() -> None:
    data = main.load_mnist()
    for study in (digit9.S0, digit9.S1):
        if FLAGS.study in (study.study, "all"):
            settings = main.settings_from_flags(digit9.presets(study), digit=FLAGS.digit)
            name = f"mnist_digit9_{study.study}"
            main.execute(name, settings, lambda folder, s=settings: digit9.run(folder, s, data), figures, data=data)


if __name__ == "__main__":
    cli.run(run)
