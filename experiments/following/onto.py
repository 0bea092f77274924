"""Reads what `--onto` names: the summary of an earlier run of S4, and the environment that it ran in."""

import hashlib
import json
import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from experiments.common import processes
from experiments.common.errors import UserError
from experiments.common.recording import ENVIRONMENT, SEAL, SUMMARY, understood
from experiments.following.earlier import ARM, Earlier
from experiments.following.read import bases_of
from experiments.following.settings import OF_A_RUN, Settings, as_kept
from lora_jax import files

ABOUT = ("commit", "python", "packages", "device", "platform", "cores")  # of an environment
OF_ITEMS = ("kinds", "constant", "shown", "prompts")
ADVICE = "name the folder of a finished run of tiny_lm.py --job=study, or experiments/results/following"


def read(folder: epath.Path, settings: Settings, data: Mapping[str, Any]) -> Earlier:
    """For a run with these settings and data; in several processes, what the first one reads.

    Raises:
      UserError: for a folder without a summary of S4, and for one of other settings or of other data.
    """
    summary = processes.agreed_by_first(lambda: _read(folder / SUMMARY))
    with understood(folder / SUMMARY, ADVICE):
        require_same(f"--onto={folder}", summary["settings"], as_kept(settings), "settings")
        require_same(f"--onto={folder}", summary["data"], json.loads(json.dumps(data)), "data")
        return _earlier(summary, tuple(map(told_of, summary["runs"])) if "runs" in summary else (_first_run(folder),))


def _first_run(folder: epath.Path) -> dict[str, Any]:
    """Of a summary that does not say what it was made by."""
    environment = processes.agreed_by_first(lambda: _read(folder / ENVIRONMENT))
    with understood(folder / ENVIRONMENT, ADVICE):
        return told_of(environment)


def _read(path: epath.Path) -> dict[str, Any]:
    try:
        found = files.read_json(path, error=UserError)
    except UserError as error:
        raise UserError(f"--onto: {str(error).rstrip('.')}; {ADVICE}.") from error
    if not isinstance(found, dict):
        raise UserError(f"--onto: {path} holds no object; {ADVICE}.")
    return found


def _earlier(summary: Mapping[str, Any], runs: tuple[Mapping[str, Any], ...]) -> Earlier:
    rows = tuple({"runs": [0] * bases_of(row), **row} for row in summary["rows"])
    _require_fields(rows, (*ARM, "steps", "units", "runs"))
    _require_fields(summary["tuning"], ("size", "lesson", "arm", "best"))
    plain = {name: value for name, value in summary.items() if name != SEAL}
    parts = tuple(summary["settings"]["parts"])
    return Earlier(
        rows=rows,
        tuning=tuple(summary["tuning"]),
        outputs={name: list(said) for name, said in summary["outputs"].items()},
        about={name: summary[name] for name in OF_ITEMS},
        runs=runs,
        questions=dict(summary.get("questions", {})),
        weights={size: dict(noted) for size, noted in dict(summary.get("weights", {})).items()},
        lessons=dict(summary.get("lessons", {})),
        parts=parts,
        bases=summary["settings"]["bases"],
        many_bases=summary["settings"]["many_bases"],
        sizes=tuple(summary["settings"]["other_sizes"]) if "sizes" in parts else (),
        checksum=hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest(),
    )


def _require_fields(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    """KeyError for what a row has not."""
    for row in rows:
        operator.itemgetter(*names)(row)


def require_same(where: str, then: Mapping[str, Any], now: Mapping[str, Any], what: str) -> None:
    """UserError for a run's settings, but for those in which runs of a study differ, or data that are not these."""
    for name, one, other in _differences(then, now):
        if name not in OF_A_RUN:
            raise UserError(
                f"{where}: of its {what}, {name} is {one!r}, and {other!r} here; take its preset, flags and files."
            )


def _differences(then: Any, now: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(name, value then, value now) of each leaf that differs."""
    if isinstance(then, dict) and isinstance(now, dict):
        for key in dict.fromkeys((*then, *now)):
            yield from _differences(then.get(key), now.get(key), f"{name}.{key}".lstrip("."))
    elif then != now:
        yield name, then, now


def told_of(environment: Mapping[str, Any]) -> dict[str, Any]:
    """What a summary's `runs` says of a run."""
    return {name: environment[name] for name in ABOUT}
