"""docs/performance.md: its tables are made from the runs that are kept, the words around them are written by hand.

Parts of the page (`common.made`):

    speed benchmark peft bert_peft    of a kept run, what these parts compare
    conditions benchmark              what it ran on
    gpu NVIDIA_H100_80GB_HBM3         what `on_gpu.py` has measured on such a device

`benchmark.py --redraw=FOLDER` makes them anew.
"""

import json
import pathlib
from typing import Any

from experiments.benchmarks import report
from experiments.benchmarks.titles import TITLES
from experiments.common import made

RESULTS = pathlib.Path(__file__).parents[1] / "results"
PAGE = pathlib.Path(__file__).parents[2] / "docs" / "performance.md"
FILE = "benchmark.json"


def write() -> bool:
    """Whether the page changed."""
    text = PAGE.read_text(encoding="utf-8")
    new = filled(text)
    PAGE.write_text(new, encoding="utf-8")
    return new != text


def filled(text: str) -> str:
    """The page with its parts made anew."""
    return made.filled(text, {"speed": _speed, "conditions": _conditions, "gpu": _gpu})


def _kept(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / name / FILE).read_text(encoding="utf-8"))


def _speed(of: str) -> str:
    name, *parts = of.split()
    return report.markdown(_kept(name)["results"], [TITLES[part] for part in parts])


def _gpu(device: str) -> str:
    """Its table without the parts that are not measured."""
    paragraphs = (RESULTS / "gpu" / device / "table.txt").read_text(encoding="utf-8").strip().split("\n\n")
    return "\n".join(["```text", "\n\n".join(part for part in paragraphs if "\n  not measured" not in part), "```"])


def _conditions(name: str) -> str:
    found = _kept(name)["environment"]
    packages = found["packages"]
    return (
        f"`experiments/results/{name}`: commit `{found['commit']}`, Python {found['python']}, jax {packages['jax']}, "
        f"flax {packages['flax']}, {found['device']}, {found['cores']} cores."
    )
