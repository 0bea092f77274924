"""Measures speed and memory of lora_jax beside the alternatives: full fine-tuning, loops, serial runs, padding, PEFT, qwix and flax.nnx.

python experiments/benchmark.py                                  # 17 minutes on 2 cores, 21 with PEFT's parts
python experiments/benchmark.py --peft_python=/path/to/python    # an interpreter that has torch and peft
python experiments/benchmark.py --only=bert_step --only=bert_sweep
python experiments/benchmark.py --redraw=experiments/results/benchmark    # measures nothing: the table anew from what is kept there

The same command skips the parts that it has measured while code, versions, devices and preset stay the same. Remove the folder to
measure all again.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # a clone runs where it lies

from experiments.common import cli  # first, as it takes over Ctrl-C

# isort: split

from absl import flags

from experiments.benchmarks.titles import TITLES
from experiments.common.flags import define_path
from experiments.common.options import define_common

define_common("not for this entry: every sweep that it times has its own")
define_path("peft_python", "Python interpreter that has torch and peft", default=sys.executable)
flags.DEFINE_multi_enum("only", None, list(TITLES), "which parts to measure; by default all")
define_path(
    "redraw",
    "measure nothing; write table.txt again from benchmark.json in this folder, and docs/performance.md where the repository keeps the folder; "
    "by default parts are measured",
)


def run() -> None:
    from experiments.benchmarks import command as benchmark

    benchmark.run()


if __name__ == "__main__":
    cli.run(run)
