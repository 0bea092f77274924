"""`rank_sweep.py`: ranks x learning rates x seeds, task by task."""

import dataclasses

from absl import flags

from experiments.common import devices, main
from experiments.data import by_flags
from experiments.following import runs as following
from experiments.following.settings import PRESETS as OF_FOLLOWING
from experiments.linear import figures as linear_figures
from experiments.linear import study as linear
from experiments.lm import runs as lm
from experiments.lm.options import TEXT_FLAGS
from experiments.rank import arrays_file, figures, study
from experiments.rank.settings import named
from experiments.rank.task import Task, of_mnist
from experiments.sst2 import figures as sst2_figures
from experiments.sst2 import inputs as sst2_inputs
from experiments.sst2 import study as sst2
from experiments.sst2.options import BERT_FLAGS

FLAGS = flags.FLAGS
OWN = ("data", "old_classes", "new_classes")


def run() -> None:
    if FLAGS.task != "tiny_lm":
        main.refuse(TEXT_FLAGS, f"with --task={FLAGS.task}")
    if FLAGS.task != "mnist":
        main.refuse(OWN, f"with --task={FLAGS.task}")
    {"mnist": _mnist, "linear_teacher": _linear_teacher, "sst2": _sst2, "tiny_lm": _tiny_lm}[FLAGS.task]()


def _linear_teacher() -> None:
    main.refuse(("learning_rates", "data_dir", "download", *BERT_FLAGS), "with --task=linear_teacher")
    settings = main.settings_from_flags(linear.PRESETS, ranks=main.chosen("ranks"), strategy=FLAGS.strategy)
    main.execute("rank_sweep_linear_teacher", settings, lambda folder: linear.summary(folder, settings), linear_figures)


def _mnist() -> None:
    """MNIST, or with --data anybody's arrays."""
    main.refuse(BERT_FLAGS, "with --task=mnist")
    if FLAGS.data is not None:
        main.refuse(("data_dir", "download"), "with --data")
    rates = named(main.chosen("learning_rates"))
    settings = main.settings_from_flags(study.PRESETS, ranks=main.chosen("ranks"), strategy=FLAGS.strategy, **rates)
    task = _task()
    name = "rank_sweep_mnist" if FLAGS.data is None else "rank_sweep_data"
    main.execute(name, settings, lambda folder: study.run(folder, settings, task), figures, data=task)


def _task() -> Task:
    old, new = FLAGS.old_classes, FLAGS.new_classes
    if FLAGS.data is None:
        return of_mnist(by_flags.load_mnist(), old, new)
    devices.settle()
    task = arrays_file.read(FLAGS.data, old, new)
    known, told = (", ".join(task.classes[place] for place in places) for places in (task.old, task.new))
    sizes = (
        f"{len(task.train.y):,} training and {len(task.test.y):,} test examples of {task.train.x.shape[1]:,} numbers"
    )
    print(f"data: {FLAGS.data}, {sizes}; the base learns {known}, and is adapted to {told} too", flush=True)
    return task


def _sst2() -> None:
    settings = main.settings_from_flags(
        sst2_inputs.presets(),
        ranks=main.chosen("ranks"),
        strategy=FLAGS.strategy,
        widenings=0 if FLAGS.learning_rates else None,  # rates that are named are those that are tried
        **_rates("scratch_rates"),
        **sst2_inputs.chosen(),
    )
    inputs = sst2_inputs.load(FLAGS.bert)
    main.execute("bert_sst2", settings, lambda folder: sst2.run(folder, settings, inputs), sst2_figures, data=inputs)


def _tiny_lm() -> None:
    """S4's part on ranks: checkable instructions, LoRA of each rank and full fine-tuning."""
    main.refuse(("data_dir", "download", "medical", "strategy", *BERT_FLAGS), "with --task=tiny_lm")
    rates = main.chosen("learning_rates")
    settings = main.settings_from_flags(
        OF_FOLLOWING, ranks=main.chosen("ranks"), lora_rates=rates, full_rates=rates,
        widenings=0 if rates else None,  # rates that are named are those that are tried
    )  # fmt: skip
    settings = dataclasses.replace(settings, parts=("arms", "others"), controls=False, other_sizes=())
    following.execute("rank_sweep_tiny_lm", settings, lm.sources(medical=False))


def _rates(*more: str) -> dict[str, tuple[float, ...] | None]:
    """What --learning_rates sets: the rates of every regime of the task."""
    return dict.fromkeys(("head_rates", "lora_rates", "full_rates", *more), main.chosen("learning_rates"))
