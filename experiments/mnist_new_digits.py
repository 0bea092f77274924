"""S3: a base that knows the digits 0-7 learns 8 and 9 through LoRA.

python experiments/mnist_new_digits.py --job=all --preset=full
python experiments/mnist_new_digits.py --job=inference --preset=full --images=my_nine.png
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # a clone runs where it lies

from experiments.common import cli  # first, as it takes over Ctrl-C

# isort: split

from experiments.common.flags import define_enum, define_list, define_paths
from experiments.common.options import by_preset, define_common, define_data
from experiments.new_digits.settings import PRESETS

define_common(by_preset(PRESETS, "seeds"))
define_data()
define_enum(
    "job",
    "pretrain the base, fine-tune it, or classify images; each job needs the one before it, and all runs the three",
    ["pretrain", "finetune", "inference", "all"],
    default="all",
)
define_list("new_digits", f"digits, of 0-9, that the base does not learn; {by_preset(PRESETS, 'new_digits')}")
define_paths("images", "with --job=inference: image files of digits; by default a sample of test images")


def run() -> None:
    from experiments.new_digits import command as mnist_new_digits

    mnist_new_digits.run()


if __name__ == "__main__":
    cli.run(run)
