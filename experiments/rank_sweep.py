"""What does LoRA's rank do? Ranks x learning rates x seeds in one compiled program, beside head-only and full fine-tuning.

python experiments/rank_sweep.py                        # MNIST; writes runs/rank_sweep_mnist-*/
python experiments/rank_sweep.py --task=linear_teacher  # against the Eckart-Young bound
"""

from absl import flags

from experiments.common import cli, main
from experiments.common.flags import define_common, define_data, define_integers, define_numbers
from experiments.figures import linear as linear_figures
from experiments.figures import rank as rank_figures
from experiments.studies import linear, rank_mnist

define_common()
define_data()
define_integers("ranks", None, "ranks of the sweep, e.g. 1,2,4,8")
define_numbers("learning_rates", None, "learning rates that every regime chooses from, e.g. 3e-4,1e-3 (mnist)")
flags.DEFINE_enum("task", "mnist", ["mnist", "linear_teacher"], "what is learned")
flags.DEFINE_enum("strategy", None, ["auto", "vmap", "sequential"], "how members run inside the program")
FLAGS = flags.FLAGS


def run() -> None:
    ranks = main.chosen(FLAGS.ranks)
    if FLAGS.task == "linear_teacher":
        main.refuse(("learning_rates", "data_dir", "download"), "with --task=linear_teacher")
        settings = main.settings_from_flags(linear.PRESETS, ranks=ranks, strategy=FLAGS.strategy)
        main.execute(
            "rank_sweep_linear_teacher", settings, lambda folder: linear.summary(folder, settings), linear_figures
        )
        return
    rates = main.chosen(FLAGS.learning_rates)
    settings = main.settings_from_flags(
        rank_mnist.PRESETS, ranks=ranks, strategy=FLAGS.strategy, head_rates=rates, lora_rates=rates, full_rates=rates
    )
    data = main.load_mnist()
    main.execute(
        "rank_sweep_mnist", settings, lambda folder: rank_mnist.run(folder, settings, data), rank_figures, data=data
    )


if __name__ == "__main__":
    cli.run(run)
