"""Runs what is missing of the studies and writes the ledger of claims.

python experiments/reproduce.py --preset=full    # the reference: writes experiments/results/
python experiments/reproduce.py --preset=smoke   # to see it work: writes runs/claims-smoke/
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

define_common("by default what each study's preset says, see the --help of its own entry")
define_data("the data sets")
flags.DEFINE_multi_enum(
    "only",
    None,
    ["s0", "s1", "s2", "sst2", "minilm", "s3", "s4", "rate", "rate_linear", "rate_sst2", "rank"],
    "studies to run, given once for each; by default all",
)
define_path(
    "from_results", "run nothing; draw the verdicts anew from the summaries kept in this folder; by default all is run"
)
flags.DEFINE_bool(
    "redraw", False, "with --from_results: draw the figures of what is kept anew, as --figure_format and --dpi say"
)
define_texts()


def run() -> None:
    from experiments.suite import command as reproduce

    reproduce.run()


if __name__ == "__main__":
    cli.run(run)
