"""Do the verdicts of S4 follow from its rows? On summaries made by hand, at points where they should turn."""

import numpy as np
import pytest

from experiments.common.items import packed
from experiments.following import claims, read
from experiments.following.read import BOTH, STORED, WORDS
from experiments.following.settings import PRESETS, as_kept

BASES, EACH = 5, 40
KINDS = ("first", "last", "nth", "longest", "count", "copy", "s_first", "s_last", "sort", "opposite")
SCORED = KINDS[:8]


def bits(share: float, seed: int, *, spread: float = 0.01) -> list[str]:
    """Of each base, about this share of the scored items right, evenly over kinds; none of the others."""
    rng = np.random.default_rng(seed)
    each = np.repeat(KINDS, EACH)
    hard = np.random.default_rng(0).random(len(each))  # the same items are hard for all
    shares = share + spread * rng.normal(size=BASES)
    return packed([(hard < of) & np.isin(each, SCORED) for of in shares])


def row(part: str, arm: str, share: float, seed: int = 0, **more) -> dict:
    right = {name: bits(share, seed) for name in (WORDS, BOTH)}
    blank = more.pop("blank", 0.1)
    said = [{"greedy": {"blank": blank + 0.01 * rng}} for rng in np.random.default_rng(seed).normal(size=BASES)]
    curves = {
        "general": [[4.0, 4.0 + more.get("lost", 0.1)]] * BASES,
        "right": [[0.0, share / 2, share, share - 0.01]] * BASES,
    }
    units = [[base, 0] for base in range(BASES)]
    return {
        "part": part, "arm": arm, "name": part, "size": "1M", "units": units, "right": right, "said": said, "curves": curves,
        "steps": 300, "ends": [100, 200, 300], "batch": 7, "seconds_per_step": 0.1,
    } | more  # fmt: skip


def summary(
    *,
    full=0.65,
    r8=0.57,
    study=0.06,
    square=0.35,
    projections=0.60,
    base=0.0,
    ten=0.06,
    sixteen=0.06,
    small=0.06,
    blank=0.3,
    study_use=4.0,
    study_lost=0.2,
):
    """By default as the pilot found it."""
    ours = "the study's LoRA r=8"

    def asked(of: float) -> dict:
        rng = np.random.default_rng(1)
        return {
            "asked": {part: {"question": (of + rng.normal(size=(BASES, 50))).tolist()} for part in ("held out", "open")}
        }

    return {
        "settings": as_kept(PRESETS["full"]),
        "kinds": {name: list(np.repeat(KINDS, EACH)) for name in (WORDS, BOTH, STORED)},
        "rows": [
            row("arms", "base", base, blank=blank), row("arms", "LoRA r=8", r8, 1), row("arms", "LoRA r=8 on q, o", square, 2),
            row("arms", "full on projections", projections, 3), row("arms", "full", full, 4),
            row("the study's", ours, study, 5, name="one epoch"),
            row("the study's", ours, study, 5, name="epochs", steps=300), row("the study's", ours, ten, 6, name="epochs", steps=3000),
            row("the study's", ours, study, 5, name="many epochs", steps=300), row("the study's", ours, ten, 7, name="many epochs", steps=15000),
            row("the study's", "the study's LoRA r=16", sixteen, 7, name="epochs", steps=300),
            row("the study's", "the study's LoRA r=16", sixteen, 8, name="epochs", steps=3000),
            row("the study's", ours, small, 9, name="small batch", steps=3000, batch=2, seconds_per_step=0.05),
            row("the study's", ours, small, 10, name="small batch", steps=10500, batch=2, seconds_per_step=0.05),
            *(row("converged", arm, full * share, 11, steps=steps) for arm in ("full", "LoRA r=8")
              for share, steps in ((0.9, 100), (1.0, 200), (0.98, 300))),
            row("sizes", "full", 0.5, size="0.3M"), row("sizes", "LoRA r=8", 0.3, size="0.3M"),
            row("medical", "base", base) | asked(5.0), row("medical", ours, base, lost=study_lost) | asked(study_use),
            row("medical", "LoRA r=8", base) | asked(6.0),
        ],
    }  # fmt: skip


def verdicts(**of) -> dict[str, str]:
    return {claim.id: claim.verdict for claim in claims.claims(summary(**of), "command")}


def test_the_base_is_the_unit_and_its_seeds_are_averaged():
    found = read.by_base({"units": [[0, 0], [0, 1], [3, 0], [3, 1]]}, [1.0, 3.0, 10.0, 20.0])
    np.testing.assert_array_equal(found, [2.0, 15.0])


def test_scored_kinds_alone_count():
    found = summary()
    right = read.right(found, read.row(found, "arms", "full"))
    assert right.shape == (BASES, len(SCORED) * EACH)
    assert read.by_kind(found, read.row(found, "arms", "full"))["sort"] == 0


def test_as_the_pilot_found_it():
    assert verdicts() == {
        "S4.0": "holds", "S4.1": "holds", "S4.2": "holds", "S4.3": "holds", "S4.4": "holds", "S4.5": "holds", "S4.6": "holds",
        "S4.7": "does not hold",
    }  # fmt: skip


@pytest.mark.parametrize("of", [{"full": 0.4}, {"base": 0.2}])
def test_behind_a_closed_gate_nothing_is_told(of):
    found = verdicts(**of)
    assert found.pop("S4.0") == "does not hold" and set(found.values()) == {claims.NOT_TESTABLE}


@pytest.mark.parametrize(
    ("id", "of", "verdict"),
    [
        ("S4.1", {"study": 0.5}, "holds in part"),
        ("S4.1", {"blank": 0.0}, "does not hold"),
        ("S4.2", {"ten": 0.4}, "does not hold"),
        ("S4.3", {"sixteen": 0.3}, "does not hold"),
        ("S4.4", {"small": 0.3}, "does not hold"),
        ("S4.6", {"r8": 0.7}, "holds in part"),
        ("S4.7", {"square": 0.08, "r8": 0.12, "projections": 0.60}, "holds"),
    ],
)
def test_where_verdicts_turn(id, of, verdict):
    assert verdicts(**of)[id] == verdict


@pytest.mark.parametrize(
    ("use", "lost", "verdict"),
    [(5.5, 0.2, "holds in part"), (5.5, -0.2, "does not hold"), (4.0, -0.2, "holds in part")],
)
def test_medicine_makes_a_model_worse_in_each_way_or_in_part(use, lost, verdict):
    assert verdicts(study_use=use, study_lost=lost)["S4.5"] == verdict


def test_full_is_held_against_the_most_epochs_on_the_bases_that_had_them():
    def facts(rows: list[dict]) -> tuple:
        (full,) = (claim for claim in claims.claims(summary() | {"rows": rows}, "") if claim.id == "S4.6")
        return full.facts

    def on_two(row: dict) -> dict:
        return row | {"units": row["units"][:2], "right": {part: of[:2] for part, of in row["right"].items()}}

    rows = summary()["rows"]
    few = [on_two(row) if row["name"] == "many epochs" else row for row in rows]
    assert facts(few)[1].said == "and after 15,000, 2 bases" and "over 2 units" in facts(few)[1].shown
    later = bits(0.5, 0)[2:]
    worse = [
        row | {"right": {part: [*of[:2], *later] for part, of in row["right"].items()}}
        if row["arm"] == "full" and row["part"] == "arms"
        else row
        for row in few
    ]
    assert facts(worse)[1].shown == facts(few)[1].shown and facts(worse)[0].shown != facts(few)[0].shown
    assert len(facts([row for row in rows if row["name"] != "many epochs"])) == 2


def test_a_gain_is_told_as_a_gain():
    (small,) = (claim for claim in claims.claims(summary(small=0.3), "") if claim.id == "S4.4")
    assert not small.facts[0].shown.startswith("-") and small.facts[0].true is False


def test_claims_about_parts_that_were_not_run_are_left_out():
    whole = summary()
    for part, ids in (
        ("medical", {"S4.5"}),
        ("converged", set()),  # S4.6 only tells of it
        ("the study's", {f"S4.{i}" for i in (1, 2, 3, 4, 6, 7)}),
    ):
        found = claims.claims(whole | {"rows": [row for row in whole["rows"] if row["part"] != part]}, "command")
        assert {claim.id for claim in found} == {f"S4.{i}" for i in range(8)} - ids
        assert any("best on tuning items" in claim.reason for claim in found) == (part == "medical")
        assert any("long runs were not made" in claim.reason for claim in found) == (part == "converged")


def test_the_way_from_the_study_to_full_is_whole():
    found = summary()
    steps = dict(claims.path(found))
    total = 100 * (
        read.right(found, read.row(found, "arms", "full")) - read.right(found, claims._ends(found, claims.STUDY)[-1])
    ).mean(axis=1)
    np.testing.assert_allclose(sum(steps.values()), total)
    assert list(steps) == list(claims.STEPS)


def test_the_command_is_that_of_the_parts_that_were_run():
    found = summary()
    assert {claim.command for claim in claims.claims(found, "command")} == {"command"}
    some = found | {"settings": found["settings"] | {"parts": ["arms"], "bases": 3, "many_bases": 2}}
    assert {claim.command for claim in claims.claims(some, "command")} == {"command --parts=arms --bases=3"}
    of_its_own = found | {"settings": found["settings"] | {"steps": 7}}
    assert {claim.command for claim in claims.claims(of_its_own, "command")} == {"command"}


def test_a_size_whose_full_fine_tuning_does_not_follow_is_told_so():
    found = summary()
    rows = [one for one in found["rows"] if one["part"] != "sizes"]
    found["rows"] = [
        *rows, row("sizes", "full", 0.4, size="0.3M"), row("sizes", "LoRA r=8", 0.3, size="0.3M"),
        row("sizes", "full", 0.7, size="3M"), row("sizes", "LoRA r=8", 0.6, size="3M"),
    ]  # fmt: skip
    small, large = claims._by_size(found)
    assert small.startswith("0.3M") and small.endswith("below the gate: not testable)") and "gate" not in large


def test_times_of_two_machines_are_not_compared():
    """The smaller batch ran in another run than the study's own."""
    found, said = summary(), "times as long, on a CPU"
    told = {claim.id: claim.reason for claim in claims.claims(found, "")}
    assert said in told["S4.4"]
    for one in found["rows"]:
        one["runs"] = [1 if one["name"] == "small batch" else 0] * BASES
    assert said not in next(claim.reason for claim in claims.claims(found, "") if claim.id == "S4.4")
