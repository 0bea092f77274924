"""`rate_against_rank.py`: the best learning rate of each rank."""

from absl import flags

from experiments.best_rate import figures, settings, study
from experiments.common import devices, main
from experiments.data import by_flags

FLAGS = flags.FLAGS


def run() -> None:
    problem = FLAGS.problem
    chosen = main.settings_from_flags(settings.PRESETS[problem], ranks=main.chosen("ranks"))
    data = None
    if problem == "linear":
        main.refuse(("data_dir", "download"), "with --problem=linear")
        devices.settle(with_cores=True)
    else:
        data = by_flags.load_mnist()
    main.execute(f"best_rate_{problem}", chosen, lambda folder: study.run(folder, chosen, data), figures, data=data)
