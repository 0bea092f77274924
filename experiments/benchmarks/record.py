"""benchmark.json: under which conditions a run measures, and each of its parts as soon as it is measured."""

import functools
import hashlib
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax
from etils import epath

import experiments
import lora_jax
from experiments.common.recording import environment, read_sealed, write_sealed


class Record:
    """The parts of a run that are measured; those that an earlier one left in the file are taken up where its conditions were the same.

    What is compared is compared within a part, so it does not matter that parts are measured hours apart.
    """

    def __init__(self, path: epath.Path, conditions: dict[str, Any]):
        self.path, self.conditions = path, conditions
        self.results = _of_the_same(path, conditions)

    def add(self, title: str, result: dict[str, Any] | None) -> None:
        """Writes the file with this part in it; None is a part that could not be measured, and is tried again by the next run."""
        stamp = {"measured_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        self.results[title] = None if result is None else {**result, **stamp}
        write_sealed(self.path, {"environment": self.conditions, "results": self.results})

    def has(self, title: str, python: str | None) -> bool:
        """Whether the part is measured; one against PEFT, by that interpreter, or by any where it is None."""
        result = self.results.get(title)
        return result is not None and (python is None or result.get("python", digest(python)) == digest(python))

    def of(self, titles: Sequence[str]) -> dict[str, Any]:
        """What is measured of these, in their order."""
        return {title: self.results.get(title) for title in titles}


def digest(python: str) -> str:
    """An interpreter's path, to be known again and not to be published."""
    return hashlib.sha256(python.encode()).hexdigest()[:12]


def conditions(preset: str) -> dict[str, Any]:
    """All that two runs must share for parts of the one to stand beside parts of the other."""
    found = {"device_kind": jax.devices()[0].device_kind, "devices": jax.device_count()}
    return {**environment(), **found, "preset": preset, "sources": _sources()}


@functools.cache  # of the code that this process has loaded
def _sources() -> str:
    """A digest of the library and the experiments: a commit says nothing about what is not committed."""
    found = hashlib.sha256()
    for package in (lora_jax, experiments):
        for path in sorted(pathlib.Path(package.__path__[0]).rglob("*.py")):
            found.update(path.read_bytes())
    return found.hexdigest()[:12]


def _of_the_same(path: epath.Path, wanted: dict[str, Any]) -> dict[str, Any]:
    """The results in the file; none, and a line, where they were measured under other conditions."""
    found = read_sealed(path)
    if found is None:
        return {}
    then = found["environment"]
    others = [key for key in {**then, **wanted} if then.get(key) != wanted.get(key)]
    if others:
        print(f"measuring anew: {path} is of another run, which differs in {', '.join(others)}", file=sys.stderr)
        return {}
    return found["results"]
