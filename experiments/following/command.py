"""`tiny_lm.py --job=study`: S4."""

from experiments.common import main
from experiments.following import runs
from experiments.following.settings import PRESETS
from experiments.lm import runs as lm
from experiments.lm.command import OF_PRETRAINING


def run() -> None:
    main.refuse(OF_PRETRAINING, "with --job=study; its presets say")
    runs.execute(runs.NAME, main.settings_from_flags(PRESETS), lm.sources())
