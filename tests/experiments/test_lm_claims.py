"""Do the verdicts on S4 follow from the numbers? The reference run's summary, with what a verdict rests on moved across its bar."""

import copy
import json
import pathlib

import numpy as np
import pytest

from experiments.ledger.facts import claim
from experiments.ledger.table import FAILS, HOLDS
from experiments.lm import claims as lm

RESULTS = pathlib.Path(__file__).parents[2] / "experiments" / "results"
SPREAD = np.array([-0.001, 0.0, 0.001])  # of three seeds


@pytest.fixture
def summary() -> dict:
    return copy.deepcopy(json.loads((RESULTS / "tiny_lm" / "summary.json").read_text()))


def verdicts(summary) -> dict[str, str]:
    return {found.id: found.verdict for found in lm.claims(summary, "command")}


def row(summary, name, data=lm.INSTRUCTIONS, **of):
    return next(
        r for r in summary["rows"] if (r["name"], r["data"]) == (name, data) and all(r[k] == v for k, v in of.items())
    )


def shift(row, kind: str, by: float, of) -> None:
    """`row` is `by` above another, seed by seed."""
    row["losses"][kind] = (np.asarray(of["losses"][kind]) + by + SPREAD[: len(of["losses"][kind])]).tolist()


@pytest.mark.parametrize(("base", "ours", "said"), [(0.5, 0.1, HOLDS), (0.5, 0.9, FAILS), (0.0, 0.0, "holds in part")])
def test_blank_outputs(summary, base, ours, said):
    row(summary, "base")["rates"]["blank"] = [base]
    row(summary, "original", rank=8, epoch=1)["rates"]["blank"] = (ours + SPREAD).tolist()
    assert verdicts(summary)["S4.1"] == said


@pytest.mark.parametrize(
    ("ten", "fifty", "said"), [(0.01, 0.02, HOLDS), (0.01, 0.3, "holds in part"), (0.3, 0.4, FAILS)]
)
def test_more_epochs(summary, ten, fifty, said):
    one = row(summary, "original", rank=8, epoch=1)
    for epoch, gain in ((10, ten), (50, fifty)):
        shift(row(summary, "original", rank=8, epoch=epoch), "answers", -gain, one)
    assert verdicts(summary)["S4.2"] == said


@pytest.mark.parametrize(("gain", "said"), [(0.01, HOLDS), (0.05, "not settled"), (0.2, FAILS)])
def test_a_higher_rank(summary, gain, said):
    shift(row(summary, "original", rank=16, epoch=50), "answers", -gain, row(summary, "original", rank=8, epoch=50))
    assert verdicts(summary)["S4.3"] == said


@pytest.mark.parametrize(
    ("gain", "seconds", "said"), [(0.01, 1.0, HOLDS), (0.01, 1e-6, "holds in part"), (0.2, 1.0, FAILS)]
)
def test_a_smaller_batch(summary, gain, seconds, said):
    small = row(summary, "original, batch 8", epoch=10)
    shift(small, "answers", -gain, row(summary, "original", rank=8, epoch=10))
    small["seconds_per_step"] = seconds
    assert verdicts(summary)["S4.4"] == said


@pytest.mark.parametrize(
    ("answers", "general", "said"), [(0.1, 0.1, "holds in part"), (0.1, -0.1, "holds in part"), (-0.1, -0.1, FAILS)]
)
def test_medicine(summary, answers, general, said):
    base = row(summary, "base", lm.MEDICAL)
    for found in (r for r in summary["rows"] if r["name"] == "original" and r["data"] == lm.MEDICAL):
        for kind, by in (("answers", answers), ("general", general)):
            found["losses"][kind] = (base["losses"][kind][0] + by + SPREAD).tolist()
    assert verdicts(summary)["S4.5"] == said


@pytest.mark.parametrize(
    ("of_original", "of_tuned", "said"),
    [(-0.1, -0.1, "holds in part"), (-0.1, 0.1, "holds in part"), (0.1, 0.1, FAILS)],
)
def test_full_fine_tuning(summary, of_original, of_tuned, said):
    full = row(summary, "tuned full", epoch=5)
    shift(row(summary, "original", rank=8, epoch=50), "answers", -of_original, full)
    shift(row(summary, "tuned LoRA", epoch=5), "answers", -of_tuned, full)
    assert verdicts(summary)["S4.6"] == said


@pytest.mark.parametrize(("left", "said"), [(0.1, HOLDS), (0.5, "holds in part"), (0.9, FAILS)])
def test_the_gap(summary, left, said):
    for found in summary["gaps"]:
        is_small = found["size"] == "0.3M" or found["rank"] == 1
        gap = (0.05 if is_small else 0.05 * left) + SPREAD
        found["lora"] = (np.asarray(found["full"]) + gap).tolist()
        found["gap"] = lm.estimate(gap.tolist())
    assert verdicts(summary)["S4.7"] == said


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ((True, True), HOLDS),
        ((True, None), "holds in part"),
        ((True, False), "holds in part"),
        ((None, True), "holds in part"),
        ((None, False), "not settled"),
        ((False, True), FAILS),
    ],
)
def test_what_is_not_settled_is_neither_true_nor_false(facts, said):
    assert claim("S", "", "", 3, dict(zip("ab", facts, strict=True)), "").verdict == said
