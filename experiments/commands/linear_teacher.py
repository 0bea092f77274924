"""`linear_teacher.py`: S2, part I."""

from absl import flags

from experiments.common import main
from experiments.figures import linear as figures
from experiments.studies import linear

FLAGS = flags.FLAGS


def run() -> None:
    settings = main.settings_from_flags(linear.PRESETS, ranks=main.chosen("ranks"))
    main.execute("linear_teacher", settings, lambda folder: linear.summary(folder, settings), figures)
