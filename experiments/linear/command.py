"""`linear_teacher.py`: S2, part I."""

from absl import flags

from experiments.common import main
from experiments.linear import figures, study

FLAGS = flags.FLAGS


def run() -> None:
    settings = main.settings_from_flags(study.PRESETS, ranks=main.chosen("ranks"))
    main.execute("linear_teacher", settings, lambda folder: study.summary(folder, settings), figures)
