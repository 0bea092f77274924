"""`rank_sweep.py`: ranks x learning rates x seeds, task by task."""

import dataclasses

from absl import flags

from experiments.common import main
from experiments.data import by_flags
from experiments.linear import figures as linear_figures
from experiments.linear import study as linear
from experiments.lm import runs as lm
from experiments.lm import study as lm_study
from experiments.lm.options import TEXT_FLAGS
from experiments.rank import figures, study
from experiments.sst2 import figures as sst2_figures
from experiments.sst2 import inputs as sst2_inputs
from experiments.sst2 import study as sst2
from experiments.sst2.options import BERT_FLAGS

FLAGS = flags.FLAGS


def run() -> None:
    if FLAGS.task != "tiny_lm":
        main.refuse(TEXT_FLAGS, f"with --task={FLAGS.task}")
    {"mnist": _mnist, "linear_teacher": _linear_teacher, "sst2": _sst2, "tiny_lm": _tiny_lm}[FLAGS.task]()


def _linear_teacher() -> None:
    main.refuse(("learning_rates", "data_dir", "download", *BERT_FLAGS), "with --task=linear_teacher")
    settings = main.settings_from_flags(linear.PRESETS, ranks=main.chosen("ranks"), strategy=FLAGS.strategy)
    main.execute("rank_sweep_linear_teacher", settings, lambda folder: linear.summary(folder, settings), linear_figures)


def _mnist() -> None:
    main.refuse(BERT_FLAGS, "with --task=mnist")
    settings = main.settings_from_flags(study.PRESETS, ranks=main.chosen("ranks"), strategy=FLAGS.strategy, **_rates())
    data = by_flags.load_mnist()
    main.execute("rank_sweep_mnist", settings, lambda folder: study.run(folder, settings, data), figures, data=data)


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
    """The gap between tuned LoRA and tuned full fine-tuning, rank by rank, at one size."""
    main.refuse(("data_dir", "download", "medical", "strategy", *BERT_FLAGS), "with --task=tiny_lm")
    ranks, rates = main.chosen("ranks"), main.chosen("learning_rates")
    settings = main.settings_from_flags(
        lm_study.PRESETS, ranks=ranks, rank=ranks and ranks[0], lora_rates=rates, full_rates=rates,
        widenings=0 if rates else None,  # rates that are named are those that are tried
    )  # fmt: skip
    settings = dataclasses.replace(settings, sizes=(settings.size,))
    lm.execute("rank_sweep_tiny_lm", settings, lm.sources(medical=False), lm_study.ranks)


def _rates(*more: str) -> dict[str, tuple[float, ...] | None]:
    """What --learning_rates sets: the rates of every regime of the task."""
    return dict.fromkeys(("head_rates", "lora_rates", "full_rates", *more), main.chosen("learning_rates"))
