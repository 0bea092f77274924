"""What does LoRA's rank do? Ranks x learning rates x seeds in one compiled program, beside head-only and full fine-tuning.

python experiments/rank_sweep.py                        # MNIST; writes runs/rank_sweep_mnist-*/
python experiments/rank_sweep.py --data=mine.npz --new_classes=cat,dog   # your own arrays x and y, and optionally x_test and y_test
python experiments/rank_sweep.py --task=linear_teacher  # against the Eckart-Young bound
python experiments/rank_sweep.py --task=sst2            # BERT on SST-2, the whole study
python experiments/rank_sweep.py --task=tiny_lm         # a language model: LoRA against full fine-tuning at every rank
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # a clone runs where it lies

from experiments.common import cli  # first, as it takes over Ctrl-C

# isort: split

from experiments.common.flags import define_enum, define_integers, define_list, define_numbers, define_path
from experiments.common.options import by_preset, by_task, define_common, define_data
from experiments.following import settings as following
from experiments.linear import settings as linear
from experiments.lm.options import define_texts
from experiments.rank import settings as rank_mnist
from experiments.sst2 import settings as sst2
from experiments.sst2.options import define_bert

TASKS = {
    "mnist": rank_mnist.PRESETS,
    "linear_teacher": linear.PRESETS,
    "sst2": sst2.PRESETS,
    "tiny_lm": following.PRESETS,
}
TUNED = {task: TASKS[task] for task in ("mnist", "sst2", "tiny_lm")}
define_enum("task", "which problem to learn", list(TASKS), default="mnist")
define_common(by_task("--task", TASKS, "seeds"))
define_integers("ranks", f"ranks of the sweep, e.g. 1,2,4,8; {by_task('--task', TASKS, 'ranks')}")
define_numbers(
    "learning_rates",
    "learning rates to choose from, for every regime, e.g. 3e-4,1e-3 (--task=linear_teacher has none); by default each regime has its own; for LoRA, "
    f"{by_task('--task', TUNED, 'lora_rates')}",
)
define_enum(
    "strategy",
    f"how a program runs the members of the sweep: at once (vmap) or one after another (sequential); {by_preset(rank_mnist.PRESETS, 'strategy')}",
    ["auto", "vmap", "sequential"],
)
define_data("the data set of the task")
define_path(
    "data",
    "with --task=mnist: a file of your own arrays, mine.npz, with x [N, ...] and y [N], and optionally x_test and y_test; by default MNIST",
)
define_list("old_classes", "with --task=mnist: classes that the base learns; by default all but the new ones")
define_list(
    "new_classes", "with --task=mnist: classes that only fine-tuning adds; by default 8,9, or all but the old ones"
)
define_bert(
    **{
        field: f"with --task=sst2 {by_preset(sst2.PRESETS, field)}"
        for field in ("regimes", "epochs", "train_limit", "dropout")
    }
)
define_texts()


def run() -> None:
    from experiments.rank import command as rank_sweep

    rank_sweep.run()


if __name__ == "__main__":
    cli.run(run)
