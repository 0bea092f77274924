"""How does the best learning rate move with LoRA's rank, under alpha = c r, alpha / sqrt(r) and a fixed alpha?

python experiments/rate_against_rank.py                     # MNIST, digits rotated by 90 degrees; writes runs/best_rate_mnist-*/
python experiments/rate_against_rank.py --problem=linear    # a linear teacher
python experiments/rate_against_rank.py --problem=sst2      # the encoder of BERT-tiny, with a classifier trained beforehand
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # a clone runs where it lies

from experiments.common import cli  # first, as it takes over Ctrl-C

# isort: split

from experiments.best_rate.settings import PRESETS
from experiments.common.flags import define_enum, define_integers
from experiments.common.options import by_task, define_common, define_data

define_enum("problem", "which problem to learn", list(PRESETS), default="mnist")
define_common(by_task("--problem", PRESETS, "seeds"))
define_integers("ranks", f"ranks of the sweep; {by_task('--problem', PRESETS, 'ranks')}")
define_data("the problem's data")


def run() -> None:
    from experiments.best_rate import command

    command.run()


if __name__ == "__main__":
    cli.run(run)
