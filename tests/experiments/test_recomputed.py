"""Do the outcomes that committed summaries keep give the means and intervals beside them?"""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from experiments.common.statistics import estimate
from tests.experiments.entries import FOLDER

RESULTS = FOLDER / "results"
SUMMARIES = sorted(RESULTS.glob("*/summary.json"))


def rows(value: Any) -> Iterator[dict[str, Any]]:
    """Every row that keeps outcomes, wherever it lies."""
    if isinstance(value, dict):
        if isinstance(value.get("by_seed"), dict):
            yield value
        for inner in value.values():
            yield from rows(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from rows(inner)


def is_estimate(value: Any) -> bool:
    return isinstance(value, dict) and {"mean", "low", "high", "n"} <= set(value)


def pairs(row: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], list[float]]]:
    """(name, estimate, outcomes) of a row; names may have a second level, such as a digit."""
    for name, outcomes in row["by_seed"].items():
        stated = row.get(name)
        if is_estimate(stated) and isinstance(outcomes, list):
            yield name, stated, outcomes
        elif isinstance(stated, dict) and isinstance(outcomes, dict):
            for inner, values in outcomes.items():
                if is_estimate(stated.get(inner)):
                    yield f"{name} {inner}", stated[inner], values


@pytest.mark.parametrize("path", SUMMARIES, ids=lambda path: path.parent.name)
def test_means_and_intervals_follow_from_the_outcomes(path):
    found = [(row, *pair) for row in rows(json.loads(path.read_text())) for pair in pairs(row)]
    if not found:
        pytest.skip("a summary of an earlier form, without outcomes")
    for _, name, stated, outcomes in found:
        assert estimate(outcomes) == pytest.approx(stated, rel=1e-9), name
