"""`mnist_digit9.py`: S0 and S1."""

from absl import flags

from experiments.common import main
from experiments.figures import digit9 as figures
from experiments.studies import digit9

FLAGS = flags.FLAGS


def run() -> None:
    data = main.load_mnist()
    for study in (digit9.S0, digit9.S1):
        if FLAGS.study in (study.study, "all"):
            settings = main.settings_from_flags(digit9.presets(study), digit=FLAGS.digit)
            name = f"mnist_digit9_{study.study}"
            main.execute(name, settings, lambda folder, s=settings: digit9.run(folder, s, data), figures, data=data)
