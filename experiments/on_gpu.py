"""Measures on a GPU, for a limited time, the most valuable part first: the headline command, exactness, and speed beside the alternatives.

python experiments/on_gpu.py --minutes=8 --workdir=runs            # one GPU, no network, whatever JAX is there; needs no installation
python experiments/on_gpu.py --data_dir=mnist.npz                  # all of MNIST where TensorFlow Datasets is not (experiments/data/mnist_file.py)
python experiments/on_gpu.py --preset=smoke                        # on a CPU: shows that every part runs

It writes on_gpu-<device>/ after every part: on_gpu.json, table.txt, and the headline's figures. The same command goes on with the parts that
are missing, then with those that an earlier version of the code measured.
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
    "minutes to measure for; it begins no part that would take longer than is left",
    default=8.0,
    least=0.001,
    most=24 * 60.0,
)
define_path("workdir", "folder for the results and for the run of the headline command", default="runs")
define_enum(
    "preset",
    "full measures; smoke takes a minute on any device and shows that every part runs",
    list(parts.SIZES),
    default="full",
)
define_accelerator()
define_path(
    "data_dir",
    "MNIST for the headline command: a folder of TensorFlow Datasets, or a file mnist.npz; by default $TFDS_DATA_DIR",
)
define_paths(
    "corpus", "text that the language model of s4_26m is pretrained on; by default the docstrings of installed packages"
)
define_path("questions", "questions that the same model is taught; by default about docstrings")
define_path("peft_python", "Python interpreter that has torch and peft", default=sys.executable)
flags.DEFINE_multi_enum("only", None, parts.NAMES, "which parts to measure; by default all")


def run() -> None:
    from experiments.gpu import command as on_gpu

    on_gpu.run()


if __name__ == "__main__":
    cli.run(run, needs_jax=False)
