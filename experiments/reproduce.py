"""Runs the studies that have no results yet, and writes the ledger of claims.

python experiments/reproduce.py --preset=full    # the reference: writes experiments/results/
python experiments/reproduce.py --preset=smoke   # shows that it works: writes runs/claims-smoke/
python experiments/reproduce.py --from_results=experiments/results    # runs nothing: verdicts and docs/studies anew from the summaries there
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # a clone runs where it lies

from experiments.common import cli  # first, as it takes over Ctrl-C

# isort: split

from absl import flags

from experiments.common.flags import define_path
from experiments.common.options import define_common, define_data
from experiments.lm.options import define_texts

define_common("by default each study's own (see the --help of its entry)")
define_data("the data sets")
flags.DEFINE_multi_enum(
    "only",
    None,
    ["s0", "s1", "s2", "sst2", "minilm", "s3", "s4", "smollm2", "rate", "rate_linear", "rate_sst2", "rank"],
    "which studies to run; by default all",
)
define_path(
    "from_results", "run nothing, and draw the verdicts from the summaries in this folder; by default the studies run"
)
flags.DEFINE_bool("redraw", False, "with --from_results: also draw the figures again, in --figure_format and --dpi")
define_texts()


def run() -> None:
    from experiments.suite import command as reproduce

    reproduce.run()


if __name__ == "__main__":
    cli.run(run)
