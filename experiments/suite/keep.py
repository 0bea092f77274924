"""Keeps a run of S4 in experiments/results, as `reproduce.py` keeps what it runs itself: for a run that was made part by part.

python -m experiments.suite.keep runs/following-1234
"""

import sys

from etils import epath

from experiments.common import cli
from experiments.common.errors import UserError
from experiments.common.recording import read_run
from experiments.following import runs
from experiments.suite.command import RESULTS
from experiments.suite.studies import keep_following


def run(path: epath.Path) -> None:
    """From a run's folder to RESULTS.

    Raises:
      UserError: for a folder that holds no finished run of S4.
    """
    summary = read_run(path, runs.NAME)
    if summary is None:
        raise UserError(f"{path} holds no finished run of tiny_lm.py --job=study; name the folder of its summary.json.")
    keep_following(RESULTS, summary, path)
    print(
        f"kept: {RESULTS / runs.NAME}; python experiments/reproduce.py --from_results=experiments/results makes the ledger and the pages"
    )


def main() -> None:
    if len(sys.argv) != 2:
        raise UserError(f"one folder is needed, not {len(sys.argv) - 1}: python -m experiments.suite.keep RUN.")
    run(epath.Path(sys.argv[1]))


if __name__ == "__main__":
    cli.guarded(main)
