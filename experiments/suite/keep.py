"""Keeps a run of S4 in experiments/results, as `reproduce.py` keeps what it runs itself: for a run that was made part by part.

python -m experiments.suite.keep runs/following-1234
"""

import sys

from etils import epath

from experiments.common import cli, locks
from experiments.common.errors import UserError
from experiments.common.recording import SUMMARY, read_json, read_run
from experiments.following import figures as following_figures
from experiments.following import onto, runs
from experiments.following.onto import ENVIRONMENT
from experiments.following.settings import PRESETS, as_kept
from experiments.suite.command import RESULTS
from experiments.suite.studies import keep_following

TABLE = "table.txt"


def run(path: epath.Path) -> None:
    """From a run's folder to RESULTS.

    Raises:
      UserError: for a folder that holds no finished run of S4, with all its files, and for one of other settings or data than those that are kept.
    """
    summary = read_run(path, runs.NAME)
    missing = [name for name in (TABLE, ENVIRONMENT, following_figures.OUTPUTS) if not (path / name).is_file()]
    if summary is None or missing:
        raise UserError(
            f"{path} holds no finished run of tiny_lm.py --job=study, with its table; name the folder of its summary.json."
        )
    onto.require_same(path, summary["settings"], as_kept(PRESETS["full"]), "settings")
    kept = read_json(RESULTS / runs.NAME / SUMMARY)
    if kept is not None:
        onto.require_same(path, summary["data"], kept["data"], "data")
    with locks.held(RESULTS):
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
