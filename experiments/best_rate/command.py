"""`rate_against_rank.py`: the best learning rate of each rank."""

from absl import flags

from experiments.best_rate import figures, settings, study
from experiments.common import devices, main
from experiments.data import by_flags
from experiments.sst2 import inputs

FLAGS = flags.FLAGS


def run() -> None:
    problem = FLAGS.problem
    chosen = main.settings_from_flags(settings.PRESETS[problem], ranks=main.chosen("ranks"))
    data = _data(problem)
    main.execute(f"best_rate_{problem}", chosen, lambda folder: study.run(folder, chosen, data), figures, data=data)


def _data(problem: str):
    """What the problem learns from, as the flags say; the devices are settled."""
    if problem == "mnist":
        return by_flags.load_mnist()
    if problem == "sst2":
        return inputs.load()
    main.refuse(("data_dir", "download"), "with --problem=linear")
    devices.settle(with_cores=True)
    return None
