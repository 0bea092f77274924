"""Verdicts S2.4 to S2.7 from summaries made by hand, at points where they should turn; figures and table of them."""

import copy
import json

import numpy as np
import pytest
from PIL import Image

from experiments.common.statistics import estimate
from experiments.ledger.table import FAILS, HOLDS
from experiments.sst2 import claims, figures
from experiments.sst2.study import RULES

RANKS = (1, 4, 8, 16, 32)
NOISE = 0.001 * np.asarray([-1.0, 1.0, 0.0])


def row(regime: str, mean: float, first: float, rank: int | None = None, share: float = 0.005, noise=NOISE) -> dict:
    """Final accuracy `mean`, `first` after one epoch of two; two measurements an epoch."""
    curves = [[0.5, 0.6, first + x, 0.8, mean + x] for x in noise.tolist()]
    final = [curve[-1] for curve in curves]
    return {
        "regime": regime, "rank": rank, "learning_rate": 1e-3, "parameters": 1000 * (rank or 7), "share": share,
        "accuracy": estimate(final), "accuracies": final, "curves": curves,
    }  # fmt: skip


def summary(noise=NOISE) -> dict:
    """A study in which every claim holds."""
    of = {1: (0.80, 0.76), 4: (0.81, 0.77), 8: (0.82, 0.78), 16: (0.82, 0.78), 32: (0.82, 0.79)}
    rows = [row("head only", 0.75, 0.745, noise=noise), row("full", 0.83, 0.82, share=1.0, noise=noise)]
    rows += [row("LoRA", *of[rank], rank=rank, noise=noise) for rank in RANKS]
    rows += [
        row("LoRA all linear", 0.825, 0.8, rank=8, noise=noise),
        row("from scratch", 0.78, 0.7, share=1.0, noise=noise),
    ]
    rates = (1e-3, 3e-3, 9e-3)
    fall = {"alpha fixed": 0.03}
    scaling = [
        {
            "rule": rule, "rank": rank, "scale": 2.0, "learning_rate": rate,
            "accuracies": (0.8 - (fall.get(rule, 0.0) if rank == 32 else 0) + noise * (1 + rank / 100)).tolist(),
        }
        for rule in RULES for rank in RANKS for rate in rates
    ]  # fmt: skip
    of_full = next(r for r in rows if r["regime"] == "full")["accuracies"]
    paired = {str(r["rank"]): estimate(np.subtract(r["accuracies"], of_full)) for r in rows if r["regime"] == "LoRA"}
    return {
        "rows": rows, "paired": paired, "settings": {"epochs": 2}, "majority": 0.51, "scored": 872,
        "scaling": {"rows": scaling, "rates": rates, "examples": 100, "epochs": 1},
        "tuning": {"LoRA": [{"rank": 8, "best": 1e-3, "at_edge": True, "accuracy": {"0.001": 0.8, "0.01": None}}]},
        "spectrum": {f"bert/{name}/kernel": [3.0, 2.0, 1.0, 0.5] for name in ("query", "value", "dense")},
        "padding": {"share_wasted": 0.25, "share_wasted_in_one_length": 0.8, "cut_sentences": 0},
        "data": {"is_full_sst2": True},
    }  # fmt: skip


def verdicts(changed: dict, one_rate: dict | None = None) -> dict[str, str]:
    return {claim.id: claim.verdict for claim in claims.claims(changed, one_rate or changed, "command")}


def change(regime: str, rank: int | None = None, **values) -> dict:
    changed = copy.deepcopy(summary())
    index = next(i for i, r in enumerate(changed["rows"]) if (r["regime"], r["rank"]) == (regime, rank))
    old = changed["rows"][index]
    given = {
        "mean": old["accuracy"]["mean"],
        "first": float(np.mean(old["curves"], 0)[2]),
        "share": old["share"],
    } | values
    changed["rows"][index] = row(regime, rank=rank, **given)
    return changed


def test_all_hold_where_the_study_is_right():
    assert verdicts(summary()) == dict.fromkeys(("S2.4", "S2.5", "S2.6", "S2.7"), HOLDS)


@pytest.mark.parametrize(
    ("claim", "changed"),
    [
        ("S2.4", lambda: change("LoRA", 1, mean=0.821)),  # nothing gained up to 8
        ("S2.4", lambda: change("LoRA", 32, mean=0.84)),  # still gaining beyond
        ("S2.6", lambda: change("head only", mean=0.825)),  # does not underfit
        ("S2.6", lambda: change("full", mean=0.81)),  # not the best
        ("S2.6", lambda: change("LoRA all linear", 8, mean=0.84)),  # full is not the best, again
        ("S2.6", lambda: change("LoRA", 32, mean=0.79)),  # the front goes down
        ("S2.6", lambda: change("full", mean=0.85)),  # LoRA too far below
        ("S2.6", lambda: change("LoRA", 16, share=0.011)),
        ("S2.7", lambda: change("head only", first=0.70)),  # no plateau yet
        ("S2.7", lambda: change("full", first=0.77)),  # not ahead
        ("S2.7", lambda: change("LoRA", 32, first=0.76)),  # higher ranks are not faster
        ("S2.7", lambda: change("full", mean=0.82)),  # fastest, not highest
        ("S2.7", lambda: change("head only", mean=0.80, first=0.795)),  # a plateau, not a low one
        ("S2.7", lambda: change("LoRA", 4, mean=0.81, first=0.84)),  # ends far below its best
    ],
)
def test_a_claim_falls_with_the_fact_it_rests_on(claim, changed):
    found = next(found for found in claims.claims(changed(), changed(), "command") if found.id == claim)
    assert found.verdict != HOLDS and ": no" in found.reason


@pytest.mark.parametrize(
    ("one_rate", "claim", "verdict"),
    [
        (lambda: change("LoRA", 1, mean=0.821), "S2.4", FAILS),  # what each rank gained was its rate's doing
        (lambda: change("LoRA", 32, mean=0.84), "S2.4", "holds in part"),
        (lambda: change("LoRA", 32, first=0.76), "S2.7", "holds in part"),
    ],
)
def test_ranks_are_compared_at_one_learning_rate(one_rate, claim, verdict):
    assert verdicts(summary(), one_rate())[claim] == verdict


def test_nothing_is_said_of_ranks_that_were_not_run():
    few = summary()
    few["rows"] = [row for row in few["rows"] if row["rank"] in (None, 1, 4)]
    assert claims.claims(few, few, "command") == []


def test_the_u_shape_is_looked_for_under_both_rules():
    without = copy.deepcopy(summary())
    for line in without["scaling"]["rows"]:
        line["accuracies"] = [0.8, 0.801, 0.799]
    assert verdicts(without)["S2.5"] == "holds in part"
    under_both = copy.deepcopy(summary())
    for line in under_both["scaling"]["rows"]:
        if line["rank"] == 32:
            line["accuracies"] = (np.asarray(line["accuracies"]) - 0.05).tolist()
    assert verdicts(under_both)["S2.5"] == FAILS


@pytest.mark.parametrize("noise", [NOISE, NOISE[:1]], ids=["three seeds", "one seed"])
def test_figures_and_table_come_out_of_the_summary(noise, tmp_path):
    text = json.loads(json.dumps(summary(noise)))
    table = figures.table(text)
    assert (
        f"{100 * (0.82 + float(noise.mean())):.2f}" in table and "82 %" not in table.split("always")[0].split("\n")[0]
    )
    assert "padding is 25 % of the training tokens in length buckets, 80 % in one length" in table
    assert "0.001 80.00 %, 0.01 diverged; taken: 0.001, the edge of its range" in table
    # r = 8 is the first within half a point of 0.82; the spectra 3, 2, 1, 0.5 have 4 directions.
    assert figures.needed_rank(text) == 8
    drawn = figures.draw(text, tmp_path)
    assert len(drawn) == 5
    for path in drawn:
        with Image.open(path) as image:
            assert min(image.size) > 300


def test_figures_of_a_run_without_lora_or_full_are_left_out(tmp_path):
    few = summary()
    few |= {"rows": [few["rows"][0]], "scaling": None, "spectrum": None, "paired": {}}
    assert {path.stem for path in figures.draw(few, tmp_path)} == {"learning_curves", "accuracy_vs_parameters"}


def test_energy_is_the_share_of_the_frobenius_norm():
    np.testing.assert_allclose(figures.energy([2.0, 1.0, 1.0]), [4 / 6, 5 / 6, 1.0])
