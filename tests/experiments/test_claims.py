"""Does a verdict follow from the numbers? On summaries made by hand, at points where it should turn."""

import copy
import json
import shutil

import numpy as np
import pytest

from experiments.common.items import packed
from experiments.common.statistics import estimate
from experiments.digit9 import claims as digit9
from experiments.ledger import table as ledger
from experiments.ledger.table import FAILS, HOLDS, Claim, against, consistent
from experiments.linear import claims as linear
from experiments.new_digits import claims as new_digits
from tests.experiments import entries

RESULTS = entries.FOLDER / "results"


def about(mean: float, half: float = 0.0, n: int = 5) -> dict:
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": n}


def by_id(claims: list[Claim]) -> dict[str, Claim]:
    assert len({claim.id for claim in claims}) == len(claims)
    return {claim.id: claim for claim in claims}


# Published values.


def test_a_published_run_is_held_against_single_runs_of_ours_not_against_their_mean():
    values = [1.0, 2.0, 3.0, 4.0, 5.0]
    e = estimate(values)
    half = 2.7764451 * 1.5811388 * (1 + 1 / 5) ** 0.5  # t(0.975, 4) s sqrt(1 + 1/n)
    assert consistent(3 + 0.999 * half, e) and not consistent(3 + 1.001 * half, e)
    assert e["high"] < 3 + 0.999 * half  # the interval of the mean would have refused it
    assert "consistent with" in against(5.0, e) and "outside" in against(20.0, e)


# S0 and S1.


def treatment(name="study", kind="study", after=20.0, others=100.0, equal=50.0, **more) -> dict:
    before = [about(10.0, 1) for _ in range(9)] + [about(80.0, 2)]
    ends = [about(12.0, 1) for _ in range(9)] + [about(after, 2)]
    for digit in (4, 1, 3):
        ends[digit] = about(60.0, 5)
    row = {
        "name": name, "kind": kind, "before": before, "after": ends,
        "accuracy_before": about(0.96, 0.001), "accuracy_after": about(0.94, 0.001),
        "digit_before": before[9], "digit_after": ends[9],
        "others_added": about(others, 5), "net_errors_added": about(others - 60, 5),
        "others_added_at_equal_gain": None if equal is None else about(equal, 5),
        "parameters": 6794, "adapter_off_equals_base": True,
        # The study's own way: from 80 wrong 9s to `after`, while the others gain `others` in proportion.
        "curve": [[10.0] * 9 + [80.0], [10.0 + others / 9] * 9 + [after]],
    }  # fmt: skip
    return row | more


def digit9_summary(*rows: dict) -> dict:
    return {"rows": list(rows), "base_parameters": 2_807_010, "base_unchanged": True}


def s0(*rows: dict) -> dict[str, Claim]:
    return by_id(digit9.s0(digit9_summary(*rows), "command"))


def test_s0_holds_where_the_study_was_right():
    claims = s0(treatment())
    assert [claims[f"S0.{i}"].verdict for i in (1, 2, 3)] == [HOLDS] * 3


def test_accuracy_falls_only_if_the_paired_interval_says_so():
    assert s0(treatment(net_errors_added=about(4, 5)))["S0.1"].verdict == FAILS
    assert s0(treatment(net_errors_added=about(6, 5)))["S0.1"].verdict == HOLDS


def test_the_digit_gains_only_if_the_intervals_are_apart():
    assert s0(treatment(after=77.0))["S0.2"].verdict == FAILS
    assert s0(treatment(after=75.0))["S0.2"].verdict == HOLDS


def test_other_digits_that_suffer_most_are_named():
    row = treatment()
    row["after"][7], row["after"][3] = about(99.0, 5), about(40.0, 5)
    claim = s0(row)["S0.3"]
    assert claim.verdict == "holds for 1, 4 only"
    assert "7 (+89)" in claim.reason
    for digit in (4, 1, 3):
        row["after"][digit] = about(10.0, 1)
    assert s0(row)["S0.3"].verdict == FAILS


def test_lora_is_the_cause_only_if_something_else_does_less_damage_for_the_same_gain():
    suspects = [treatment("full", "suspect", equal=45.0), treatment("bias", "suspect", equal=60.0)]
    assert s0(treatment(), *suspects)["S0.4"].verdict == FAILS
    suspects[0] = treatment("full", "suspect", equal=30.0)
    claim = s0(treatment(), *suspects)["S0.4"]
    assert (claim.verdict, claim.reason) == (HOLDS, "less damage without LoRA: full")


@pytest.mark.parametrize(
    "rows",
    [[treatment(equal=None), treatment("full", "suspect")], [treatment(), treatment("full", "suspect", equal=None)]],
)
def test_a_gain_that_is_never_reached_measures_nothing(rows):
    assert s0(*rows)["S0.4"].verdict == "not measured"


@pytest.mark.parametrize(
    ("others", "after", "said"),
    [
        (50.0, 20.0, HOLDS),
        (50.0, 79.0, "holds if digit 9 need not gain"),
        (94.0, 20.0, FAILS),
        # Half-way to its 20 wrong 9s the study's run has added 50 elsewhere: fewer must be added, interval and all.
        (44.0, 50.0, HOLDS),
        (46.0, 50.0, "holds as a smaller dose only"),
    ],
)
def test_a_mitigation_works_if_it_spares_the_others_for_as_much_gain(others, after, said):
    claims = s0(treatment(), treatment("replay", "mitigation", after=after, others=others))
    assert claims["S0.5.1"].verdict == said


def test_s1_counts_parameters_and_compares_every_bit():
    summary = digit9_summary(treatment())
    claims = by_id(digit9.s1(summary, "command"))
    assert claims["S1.3"].verdict == claims["S1.4"].verdict == HOLDS
    assert "6,794 of 2,807,010 = 0.242 %" in claims["S1.3"].ours
    summary["rows"][0] |= {"parameters": 7100, "adapter_off_equals_base": False}
    claims = by_id(digit9.s1(summary, "command"))
    assert claims["S1.3"].verdict == claims["S1.4"].verdict == FAILS


# S2.


def linear_summary(worst=1.001, early=3.0) -> dict:
    rows = [
        {
            "rule": rule, "rank": rank, "final_error": about(1 / rank, 0.01), "final_ratio": about(1.0, 0.001),
            "worst_final_ratio": worst, "early_ratio": about(early if rule == "alpha fixed" else 1.5, 0.1),
        }
        for rule in ("alpha = c r", "alpha fixed") for rank in (1, 4)
    ]  # fmt: skip
    return {"rows": rows, "steps": 1000, "early_step": 25}


def test_s2_holds_at_convergence():
    claims = by_id(linear.claims(linear_summary(), "command"))
    assert [claims[f"S2.{i}"].verdict for i in (1, 2, 3)] == [HOLDS, HOLDS, "holds if training is short"]


def test_s2_1_has_a_bar():
    assert by_id(linear.claims(linear_summary(worst=1.0101), "command"))["S2.1"].verdict == FAILS


def test_s2_2_one_rise_is_enough_to_fail():
    summary = linear_summary()
    summary["rows"][3]["final_error"] = about(1.5, 0.01)
    assert by_id(linear.claims(summary, "command"))["S2.2"].verdict == FAILS


def test_s2_3_needs_an_artifact_and_says_whether_it_stays():
    assert by_id(linear.claims(linear_summary(early=1.6), "command"))["S2.3"].verdict == FAILS
    assert by_id(linear.claims(linear_summary(worst=1.2), "command"))["S2.3"].verdict == HOLDS


# S3.


ITEMS = {"old": 800, "new": 200}


def measured(old: float, new: float, n: int = 5) -> dict:
    """So much of old and new digits right, on each of n bases, give or take an image."""
    rng = np.random.default_rng(int(1000 * (old + new)))
    wrong = [
        np.arange(size) < np.round((1 - share) * size) + rng.integers(0, 2, (n, 1)) * (0 < share < 1)
        for share, size in zip((old, new), ITEMS.values(), strict=True)
    ]
    right = [~part for part in wrong]
    parts = {"old": right[0], "new": right[1], "overall": np.concatenate(right, axis=1)}
    by_seed = {group: part.mean(axis=1).tolist() for group, part in parts.items()}
    return {
        **{group: estimate(values) for group, values in by_seed.items()},
        "by_seed": by_seed,
        "right": packed(parts["overall"]),
    }


def recipe(name: str, kind: str, old: float, new: float, **more) -> dict:
    return {
        "name": name,
        "kind": kind,
        "parameters": 41_376,
        **measured(old, new),
        "adapter_off_equals_base": True,
        **more,
    }


def new_digits_summary(**changed: tuple[float, float]) -> dict:
    """The rows by their kind, those that are named with other shares right."""
    shares = {
        "study": (0.001, 0.99), "full_alone": (0.0, 0.99), "later": (0.95, 0.7), "later_tuned": (0.95, 0.8), "least": (1.0, 0.985),
        "full_replayed": (1.0, 0.985), "oracle": (1.0, 0.99), "confidence": (0.95, 0.8),
    } | changed  # fmt: skip
    kinds = {"full_alone": "full alone", "later_tuned": "later, tuned", "full_replayed": "full, replayed"}
    rows = [recipe(kinds.get(name, name), kinds.get(name, name), *of) for name, of in shares.items()]
    curve = {"batches": [0, 1, 2], "new": [[0.0] * 5, [0.8] * 5, [0.99] * 5]}
    return {
        "base": {**measured(0.9874, 0.0), "parameters": 567_434, "training_images": 44_000},
        "rows": rows[:6],
        "modular": rows[6:],
        "first_epoch": [{**curve, "name": name, "old": kept()} for name in ("study", "full alone")],
        "tuning": {"rates": {"LoRA": {"at_edge": False}, "full": {"at_edge": False}}},
        "items": ITEMS,
        "bars": {"old": 0.98, "new": 0.95, "overall": 0.98},
        "base_unchanged": True,
        "settings": {"held_out": 5000},
    }  # fmt: skip


def kept() -> list[list[float]]:
    return [[1.0] * 5, [0.6 + seed / 1e3 for seed in range(5)], [0.2] * 5]


def s3(summary: dict) -> dict[str, Claim]:
    return by_id(new_digits.claims(summary, "command"))


def test_s3_as_it_was_measured():
    verdicts = {id_: claim.verdict for id_, claim in s3(new_digits_summary()).items()}
    fails = {"S3.3", "S3.5", "S3.6", "S3.9"}
    assert verdicts == {f"S3.{i}": FAILS if f"S3.{i}" in fails else HOLDS for i in range(1, 11)}


def test_s3_if_the_study_had_been_right():
    assert s3(new_digits_summary(study=(1.0, 0.99)))["S3.3"].verdict == HOLDS
    assert s3(new_digits_summary(confidence=(1.0, 0.97)))["S3.9"].verdict == HOLDS


def test_a_bar_that_lies_within_the_images_noise_is_not_settled():
    claim = s3(new_digits_summary(least=(0.9835, 0.97)))["S3.7"]
    assert claim.verdict == "not settled" and "above 98 %: not settled" in claim.reason


def test_lora_falls_short_of_full_by_more_than_the_margin():
    claim = s3(new_digits_summary(least=(0.95, 0.95)))["S3.10"]
    assert claim.verdict == FAILS and claim.declared.margin == 0.5


def test_lora_that_forgets_more_for_as_much_gain_is_said_to():
    summary = new_digits_summary()
    for seed in range(5):
        summary["first_epoch"][0]["old"][1][seed] = summary["first_epoch"][0]["old"][2][seed] = 0.1 + seed / 1e3
    claim = s3(summary)["S3.8"]
    assert claim.verdict == "holds in part" and "once 90 % of 8-9 are right, too: no" in claim.reason
    assert s3(new_digits_summary(full_alone=(0.5, 0.99)))["S3.8"].verdict == FAILS


def test_a_rate_at_the_edge_is_said():
    summary = new_digits_summary()
    summary["tuning"]["rates"]["full"]["at_edge"] = True
    assert "the rate of full lies at the edge" in s3(summary)["S3.7"].reason


def test_s3_a_base_that_moved_or_knew_the_new_digits():
    moved, knew = new_digits_summary(), new_digits_summary()
    moved["rows"][2]["adapter_off_equals_base"] = False
    knew["base"] |= measured(0.9874, 0.01)
    assert s3(moved)["S3.4"].verdict == FAILS
    assert s3(knew)["S3.1"].verdict == FAILS


# The ledger.


def test_the_ledger_is_written_twice(tmp_path):
    claims = [*s3(new_digits_summary()).values()]
    claims.append(Claim("X", "a | b", "-", "-", 1, HOLDS, "why", "command"))
    environment = {"commit": "abc", "packages": {"jax": "1"}, "device": "cpu"}
    markdown, data = ledger.write(claims, environment, tmp_path)
    assert [claim["id"] for claim in json.loads(data.read_text())["claims"]] == [claim.id for claim in claims]
    rows = [line for line in markdown.read_text().splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + len(claims)
    assert all(row.replace("\\|", "").count("|") == 10 for row in rows)


def test_claims_leave_summaries_as_they_are():
    summary = new_digits_summary()
    before = copy.deepcopy(summary)
    s3(summary)
    assert summary == before


@pytest.mark.skip(
    reason="the summaries of the rank sweep and of S3 are of an earlier form, until their reference runs are made anew"
)
def test_the_repository_s_ledger_follows_from_its_summaries(run_entry, tmp_path):
    """Whoever changes a verdict's rule, or a summary, writes the ledger anew."""
    committed = json.loads((RESULTS / "CLAIMS.json").read_text())["claims"]
    shutil.copytree(RESULTS, tmp_path / "results")
    status, _, _ = run_entry("reproduce.py", f"--from_results={tmp_path}/results")
    drawn = json.loads((tmp_path / "results" / "CLAIMS.json").read_text())["claims"]
    assert status == 0 and len(drawn) > 30
    assert drawn == committed


def test_a_ledger_of_what_is_kept(run_entry, tmp_path):
    shutil.copytree(RESULTS / "mnist_digit9_s1", tmp_path / "mnist_digit9_s1")
    status, stdout, _ = run_entry("reproduce.py", f"--from_results={tmp_path}")
    assert status == 0 and f"not in {tmp_path}: mnist_digit9_s0" in stdout
    assert {claim["id"] for claim in json.loads((tmp_path / "CLAIMS.json").read_text())["claims"]} == {
        f"S1.{i}" for i in range(1, 6)
    }


def test_a_summary_of_an_earlier_form_is_refused_by_one_sentence(run_entry, tmp_path):
    (tmp_path / "rank_sweep_mnist").mkdir()
    row = {"regime": "full", "rank": None, "learning_rate": 0.001, "accuracy": about(0.97)}
    (tmp_path / "rank_sweep_mnist" / "summary.json").write_text(json.dumps({"rows": [row], "settings": {}}))
    status, _, stderr = run_entry("reproduce.py", f"--from_results={tmp_path}")
    assert status == 2 and stderr.count("\n") == 1 and "does not hold what is expected there" in stderr


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_text('{"rows": [')])
def test_a_ledger_without_a_summary(damage, run_entry, tmp_path):
    shutil.copytree(RESULTS / "mnist_digit9_s0", tmp_path / "mnist_digit9_s0")
    damage(tmp_path / "mnist_digit9_s0" / "summary.json")
    status, _, stderr = run_entry("reproduce.py", f"--from_results={tmp_path}")
    assert status == 2 and "mnist_digit9_s0/summary.json cannot be read" in stderr
    assert not (tmp_path / "CLAIMS.json").exists()


def test_a_ledger_of_nothing(run_entry, tmp_path):
    status, _, stderr = run_entry("reproduce.py", f"--from_results={tmp_path}")
    assert status == 2 and "keeps no study" in stderr
