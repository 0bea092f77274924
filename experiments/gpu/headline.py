"""The headline command on this device, `rank_sweep.py --accelerator=... --preset=full`: seconds, table, and whether it agrees with a CPU."""

import math
import pathlib
from typing import Any

from etils import epath
from scipy import stats

from experiments.common.recording import read_json, write_bytes
from experiments.gpu import entries
from experiments.gpu.entries import Asked, Measured
from experiments.gpu.parts import HEADLINE
from experiments.gpu.record import Record

EXPERIMENTS = pathlib.Path(__file__).resolve().parents[1]
REFERENCE = EXPERIMENTS / "results" / "rank_sweep_mnist" / "summary.json"
NAME, TITLE, ABOUT_S = HEADLINE, "rank sweep on MNIST, the headline command", 240
LEAST_S, SHARE = float(ABOUT_S), 0.6  # of the time that is left, where that is more than it needs
APART = 3.0  # standard errors of a difference, the largest of all rows; written down before any accelerator was at hand


def measure(found: Record, asked: Asked, seconds: float) -> Measured | None:
    """The command's result; its figures and table go to the record's folder. None where it did not end within the seconds.

    Raises:
      UserError: when the command fails.
    """
    data = [f"--data_dir={asked.data_dir}"] if asked.data_dir else []
    ran = entries.run(found, NAME, "rank_sweep.py", [f"--preset={asked.preset}"], data, seconds)
    if ran is None:
        return None
    (summary_path,) = ran.workdir.glob("rank_sweep_mnist-*/summary.json")
    for path in (summary_path.parent / "table.txt", *sorted(summary_path.parent.glob("*.png"))):
        write_bytes(found.folder / f"{NAME}_{path.name}", path.read_bytes())
    summary = read_json(summary_path)
    result = {"accuracies": _accuracies(summary["rows"]), "data": summary["data"]}
    return result | agreement(summary, read_json(epath.Path(REFERENCE))), ran.seconds


def _accuracies(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {_name(row): row["accuracy"] | {"learning_rate": row["learning_rate"]} for row in rows}


def _name(row: dict[str, Any]) -> str:
    return row["regime"] if row["rank"] is None else f"{row['regime']}, r = {row['rank']}"


def agreement(summary: dict[str, Any], reference: dict[str, Any] | None) -> dict[str, Any]:
    """How far each row's accuracy lies from the CPU's, in points and in standard errors of the difference over seeds, and what that says.

    Training rounds differently on each device, and so do the bases: within the noise of the bases they agree, beyond it nothing is settled.
    """
    if reference is None or any(summary[key] != reference[key] for key in ("data", "settings")):
        return {"agreement": "not compared: the CPU's run of reference is of other data or settings"}
    theirs = _accuracies(reference["rows"])
    apart = {name: _apart(row, theirs[name]) for name, row in _accuracies(summary["rows"]).items()}
    largest = max(abs(row["standard_errors"]) for row in apart.values())
    said = "within the noise of the seeds" if largest <= APART else "not settled: beyond the noise of the seeds"
    return {"apart": apart, "agreement": f"with the CPU's run: at most {largest:.1f} standard errors apart; {said}"}


def _apart(row: dict[str, Any], other: dict[str, Any]) -> dict[str, float]:
    difference = row["mean"] - other["mean"]
    return {
        "points": 100 * difference,
        "standard_errors": difference / math.hypot(_standard_error(row), _standard_error(other)),
    }


def _standard_error(e: dict[str, Any]) -> float:
    return (e["high"] - e["low"]) / 2 / float(stats.t.ppf(0.975, e["n"] - 1))
