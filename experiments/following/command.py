"""`tiny_lm.py --job=study`: S4."""

from absl import flags

from experiments.common import main
from experiments.following import runs
from experiments.following.settings import presets
from experiments.lm import runs as lm
from experiments.lm.command import OF_PRETRAINING

FLAGS = flags.FLAGS


def run() -> None:
    main.refuse([name for name in OF_PRETRAINING if name != "size"], "with --job=study; its presets say")
    settings = main.settings_from_flags(presets(FLAGS["size"].value))
    if "medical" not in settings.parts:
        main.refuse(("medical",), f"with --preset={FLAGS.preset}, which has no part on medicine")
    runs.execute(runs.NAME, settings, lm.sources(medical="medical" in settings.parts))
