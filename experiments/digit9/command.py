"""`mnist_digit9.py`: S0 and S1."""

from absl import flags

from experiments.common import main
from experiments.data import by_flags
from experiments.digit9 import figures
from experiments.digit9 import study as digit9

FLAGS = flags.FLAGS


def run() -> None:
    data = by_flags.load_mnist()
    for study in (digit9.S0, digit9.S1):
        if FLAGS.study in (study.study, "all"):
            settings = main.settings_from_flags(digit9.presets(study), digit=FLAGS.digit)
            name = f"mnist_digit9_{study.study}"
            main.execute(name, settings, lambda folder, s=settings: digit9.run(folder, s, data), figures, data=data)
