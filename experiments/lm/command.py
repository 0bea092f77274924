"""`tiny_lm.py`: S4, job by job."""

from absl import flags

from experiments.common import devices, main
from experiments.lm import pretraining, runs, study

FLAGS = flags.FLAGS
OF_PRETRAINING = ("size", "tokens", "length", "batch_size", "epochs", "learning_rate", "seed")


def run() -> None:
    {"pretrain": _pretrain, "study": _study}[FLAGS.job]()


def _study() -> None:
    main.refuse(OF_PRETRAINING, "with --job=study; its presets say")
    settings = main.settings_from_flags(study.PRESETS)
    runs.execute("tiny_lm_study", settings, runs.sources())


def _pretrain() -> None:
    main.refuse(("seeds",), "with --job=pretrain, where one model is trained")
    main.refuse(("questions", "medical"), "with --job=pretrain, only with study")
    settings = main.settings_from_flags(pretraining.PRESETS, **{name: FLAGS[name].value for name in OF_PRETRAINING})
    devices.settle()
    model = runs.pretrain(settings, runs.corpus())["model"]
    print(f"model: {model}")
    print(f"finetune: python experiments/finetune_lm.py --model={model}")
