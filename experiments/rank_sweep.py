"""What does LoRA's rank do? Ranks x learning rates x seeds in one compiled program, beside head-only and full fine-tuning.

python experiments/rank_sweep.py                        # MNIST; writes runs/rank_sweep_mnist-*/
python experiments/rank_sweep.py --task=linear_teacher  # against the Eckart-Young bound
python experiments/rank_sweep.py --task=sst2            # BERT on SST-2, the whole study
python experiments/rank_sweep.py --task=tiny_lm         # a language model: LoRA against full fine-tuning at every rank
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # a clone runs where it lies

import dataclasses

from absl import flags

from experiments.common import cli, lm, main
from experiments.common.flags import define_bert, define_common, define_data, define_integers, define_numbers
from experiments.figures import linear as linear_figures
from experiments.figures import rank as rank_figures
from experiments.figures import sst2 as sst2_figures
from experiments.studies import linear, lm_study, rank_mnist, sst2

define_common()
define_data("data set of the task")
define_bert()
define_integers("ranks", None, "ranks of the sweep, e.g. 1,2,4,8")
define_numbers(
    "learning_rates",
    None,
    "learning rates that every regime chooses from, e.g. 3e-4,1e-3 (all tasks but linear_teacher)",
)
flags.DEFINE_enum("task", "mnist", ["mnist", "linear_teacher", "sst2", "tiny_lm"], "what is learned")
flags.DEFINE_enum("strategy", None, ["auto", "vmap", "sequential"], "how members run inside the program")
lm.define_text()
FLAGS = flags.FLAGS


BERT_FLAGS = ("bert", "regimes", "epochs", "train_limit", "dropout")


def run() -> None:
    if FLAGS.task != "tiny_lm":
        main.refuse(lm.TEXT_FLAGS, f"with --task={FLAGS.task}")
    {"mnist": _mnist, "linear_teacher": _linear_teacher, "sst2": _sst2, "tiny_lm": _tiny_lm}[FLAGS.task]()


def _linear_teacher() -> None:
    main.refuse(("learning_rates", "data_dir", "download", *BERT_FLAGS), "with --task=linear_teacher")
    settings = main.settings_from_flags(linear.PRESETS, ranks=main.chosen("ranks"), strategy=FLAGS.strategy)
    main.execute("rank_sweep_linear_teacher", settings, lambda folder: linear.summary(folder, settings), linear_figures)


def _mnist() -> None:
    main.refuse(BERT_FLAGS, "with --task=mnist")
    settings = main.settings_from_flags(
        rank_mnist.PRESETS, ranks=main.chosen("ranks"), strategy=FLAGS.strategy, **_rates()
    )
    data = main.load_mnist()
    main.execute(
        "rank_sweep_mnist", settings, lambda folder: rank_mnist.run(folder, settings, data), rank_figures, data=data
    )


def _sst2() -> None:
    settings = main.settings_from_flags(
        sst2.PRESETS,
        ranks=main.chosen("ranks"),
        strategy=FLAGS.strategy,
        **_rates("scratch_rates"),
        **main.bert_settings(),
    )
    inputs = main.load_sst2(FLAGS.bert)
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


if __name__ == "__main__":
    cli.run(run)
