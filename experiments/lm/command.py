"""`tiny_lm.py --job=pretrain`: a small language model from nothing."""

from absl import flags

from experiments.common import devices, main
from experiments.lm import pretraining, runs

FLAGS = flags.FLAGS
OF_PRETRAINING = ("size", "tokens", "length", "batch_size", "epochs", "learning_rate", "seed")


def run() -> None:
    main.refuse(("seeds",), "with --job=pretrain, where one model is trained")
    main.refuse(("questions", "medical", "parts", "bases", "sizes", "onto"), "with --job=pretrain, only with study")
    settings = main.settings_from_flags(pretraining.PRESETS, **{name: FLAGS[name].value for name in OF_PRETRAINING})
    devices.settle()
    model = runs.pretrain(settings, runs.corpus())["model"]
    print(f"model: {model}")
    print(f"finetune: python experiments/finetune_lm.py --model={model}")
