"""`mnist_digit9.py`: S0 and S1."""

import dataclasses

from absl import flags

from experiments.common import main
from experiments.data import by_flags
from experiments.digit9 import figures
from experiments.digit9 import study as digit9
from experiments.digit9.settings import DIGIT
from experiments.digit9.treatments import WEAK

FLAGS = flags.FLAGS


def run() -> None:
    data = by_flags.load_mnist()
    for study in (digit9.S0, digit9.S1):
        if FLAGS.study in (study.study, "all"):
            settings = _of_digit(main.settings_from_flags(digit9.presets(study), digit=FLAGS.digit))
            name = f"mnist_digit9_{study.study}"
            main.execute(name, settings, lambda folder, s=settings: digit9.run(folder, s, data), figures, data=data)


def _of_digit(settings):
    """S0 says which classes are weak beside 9: for another digit the rows that oversample them are left out."""
    kept = tuple(row for row in settings.treatments if settings.digit == DIGIT or row.stream != WEAK)
    if len(kept) < len(settings.treatments):
        print(
            f"--digit={settings.digit}: {WEAK!r} is left out, as the study says which classes are weak for {DIGIT} alone",
            flush=True,
        )
    return dataclasses.replace(settings, treatments=kept)
