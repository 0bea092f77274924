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
    "job", "what to do; each job needs the one before", ["pretrain", "finetune", "inference", "all"], default="all"
)
define_list("new_digits", f"digits the base does not know, 0-9; {by_preset(PRESETS, 'new_digits')}")
define_paths("images", "image files of digits for `inference`; by default a sample of test images")


def run() -> None:
    from experiments.new_digits import command as mnist_new_digits

    mnist_new_digits.run()


if __name__ == "__main__":
    cli.run(run)
