"""Reads what `--onto` names: the summary of an earlier run of S4, and the environment that it ran in."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

from experiments.common import processes
from experiments.common.errors import UserError
from experiments.common.recording import SEAL, SUMMARY, understood
from experiments.following.earlier import Earlier, arm_of
from experiments.following.read import bases_of
from experiments.following.settings import OF_A_RUN, Settings, as_kept
from lora_jax import files

ENVIRONMENT = "environment.json"
ABOUT = ("commit", "python", "packages", "device", "platform", "cores")  # of an environment
OF_ITEMS = ("kinds", "constant", "shown", "prompts")
ADVICE = "name the folder of a finished run of tiny_lm.py --job=study, or experiments/results/following"


def read(folder: epath.Path, settings: Settings, data: Mapping[str, Any]) -> Earlier:
    """For a run with these settings and data; in several processes, what the first one reads.

    Raises:
      UserError: for a folder without a summary of S4, and for one of other settings or of other data.
    """
    summary, environment = (
        processes.agreed_by_first(lambda name=name: _read(folder / name)) for name in (SUMMARY, ENVIRONMENT)
    )
    with understood(folder / SUMMARY, ADVICE):
        _require_same(folder, summary["settings"], as_kept(settings), "settings")
        _require_same(folder, summary["data"], json.loads(json.dumps(data)), "data")
        return _earlier(summary, told_of(environment))


def _read(path: epath.Path) -> dict[str, Any]:
    try:
        found = files.read_json(path, error=UserError)
    except UserError as error:
        raise UserError(f"--onto: {str(error).rstrip('.')}; {ADVICE}.") from error
    if not isinstance(found, dict):
        raise UserError(f"--onto: {path} holds no object; {ADVICE}.")
    return found


def _earlier(summary: Mapping[str, Any], environment: Mapping[str, Any]) -> Earlier:
    rows = tuple({"runs": [0] * bases_of(row), **row} for row in summary["rows"])
    for row in rows:
        arm_of(row), row["steps"]
    plain = {name: value for name, value in summary.items() if name != SEAL}
    parts = tuple(summary["settings"]["parts"])
    return Earlier(
        rows=rows,
        tuning=tuple(
            dict(line, size=line["size"], lesson=line["lesson"], arm=line["arm"]) for line in summary["tuning"]
        ),
        outputs={name: list(said) for name, said in summary["outputs"].items()},
        about={name: summary[name] for name in OF_ITEMS},
        runs=tuple(summary.get("runs", [environment])),
        questions=summary.get("questions", {}),
        weights=summary.get("weights", {}),
        lessons=summary.get("lessons", {}),
        parts=parts,
        bases=summary["settings"]["bases"],
        many_bases=summary["settings"]["many_bases"],
        sizes=tuple(summary["settings"]["other_sizes"]) if "sizes" in parts else (),
        checksum=hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest(),
    )


def _require_same(folder: epath.Path, then: Mapping[str, Any], now: Mapping[str, Any], what: str) -> None:
    for name, one, other in _differences(then, now):
        if name not in OF_A_RUN:
            raise UserError(
                f"--onto={folder}: of its {what}, {name} is {one!r}, and {other!r} here; take its preset, flags and files."
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
