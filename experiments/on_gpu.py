"""What a GPU owes this project, the most valuable first, within so many minutes: the headline command, exactness, and ratios side by side.

python experiments/on_gpu.py --minutes=8 --workdir=runs            # one GPU, no network, whatever JAX is there; needs no installation
python experiments/on_gpu.py --data_dir=mnist.npz                  # all of MNIST where TensorFlow Datasets is not (experiments/data/mnist_file.py)
python experiments/on_gpu.py --preset=smoke                        # on a CPU: shows that every part runs

It writes on_gpu-<device>/ after every part: on_gpu.json, table.txt, and the headline's figures. The same command goes on with what is missing,
then with what other code than today's measured.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # a clone runs where it lies

from experiments.common import cli  # first, as it takes over Ctrl-C

# isort: split

from absl import flags

from experiments.common.flags import define_enum, define_number, define_path, define_paths
from experiments.common.options import define_accelerator
from experiments.gpu import parts

define_number(
    "minutes",
    "how long to measure; a part that would take longer than is left is not begun",
    default=8.0,
    least=0.001,
    most=24 * 60.0,
)
define_path("workdir", "folder for the results and the headline's run", default="runs")
define_enum(
    "preset", "full, or smoke: a minute, on any device, to see that every part runs", list(parts.SIZES), default="full"
)
define_accelerator()
define_path(
    "data_dir",
    "MNIST for the headline, as for rank_sweep.py: a folder of TensorFlow Datasets, or a file mnist.npz; by default $TFDS_DATA_DIR",
)
define_paths("corpus", "text for the language model of s4_26m, as for tiny_lm.py; by default docstrings installed here")
define_path("questions", "questions for the same; by default about docstrings")
define_path("peft_python", "interpreter with torch and peft", default=sys.executable)
flags.DEFINE_multi_enum("only", None, parts.NAMES, "parts to measure, given once for each; by default all")


def run() -> None:
    from experiments.gpu import command as on_gpu

    on_gpu.run()


if __name__ == "__main__":
    cli.run(run, needs_jax=False)
