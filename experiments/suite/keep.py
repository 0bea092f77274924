"""Keeps a run of S4 in experiments/results, as `reproduce.py` keeps what it runs itself: for a run that was made part by part.

python -m experiments.suite.keep runs/following-1234
"""

import sys
from collections.abc import Sequence

from etils import epath

from experiments.common import cli, locks
from experiments.common.errors import UserError
from experiments.common.recording import ENVIRONMENT, SUMMARY, read_json, read_run
from experiments.following import figures as following_figures
from experiments.following import onto, runs
from experiments.following.earlier import arm_of
from experiments.following.read import Row
from experiments.following.settings import PRESETS, as_kept
from experiments.suite.command import RESULTS
from experiments.suite.studies import keep_following

TABLE = "table.txt"


def run(path: epath.Path) -> None:
    """From a run's folder to RESULTS.

    Raises:
      UserError: for a folder that holds no finished run of S4, with all its files, and for one of other settings or data than those that
        are kept, or with fewer arms.
    """
    summary = read_run(path, runs.NAME) if path.name.startswith(f"{runs.NAME}-") else None
    missing = [name for name in (TABLE, ENVIRONMENT, following_figures.OUTPUTS) if not (path / name).is_file()]
    if summary is None or missing:
        raise UserError(
            f"{path} holds no finished run of tiny_lm.py --job=study, with its table; name the folder of its summary.json."
        )
    onto.require_same(str(path), summary["settings"], as_kept(PRESETS["full"]), "settings")
    kept = read_json(RESULTS / runs.NAME / SUMMARY)
    if kept is not None:
        onto.require_same(str(path), summary["data"], kept["data"], "data")
        _require_all(path, summary["rows"], kept["rows"])
    with locks.held(RESULTS):
        keep_following(RESULTS, summary, path)
    print(
        f"kept: {RESULTS / runs.NAME}; python experiments/reproduce.py --from_results=experiments/results makes the ledger and the pages"
    )


def _require_all(path: epath.Path, rows: Sequence[Row], kept: Sequence[Row]) -> None:
    """UserError where an arm that is kept would be lost."""
    if lost := set(map(arm_of, kept)) - set(map(arm_of, rows)):
        part, name, size, arm = min(lost)
        raise UserError(
            f"{path} lacks {len(lost)} arms that are kept, {arm} ({part}: {name}, {size}) among them; "
            "run it with --onto=experiments/results/following."
        )


def main() -> None:
    if len(sys.argv) != 2:
        raise UserError(f"one folder is needed, not {len(sys.argv) - 1}: python -m experiments.suite.keep RUN.")
    run(epath.Path(sys.argv[1]))


if __name__ == "__main__":
    cli.guarded(main)
