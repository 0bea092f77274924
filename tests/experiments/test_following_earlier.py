"""What is joined of an earlier run of S4 and of one that goes on from it, and what is refused: on rows that are made here."""

import dataclasses

import pytest

from experiments.common.errors import UserError
from experiments.following import earlier, read, runs
from experiments.following.earlier import Earlier
from experiments.following.settings import PRESETS


def row(bases: range, **more) -> dict:
    """Of an arm on some bases, two seeds each, with a value for each of them at every depth."""
    units = [[base, seed] for base in bases for seed in range(2)]
    values = [100 * base + seed for base, seed in units]
    return {
        "part": "medical", "name": "medical", "size": "1M", "arm": "LoRA r=8", "steps": 8, "rate": 0.01, "batch": 7, "ends": [4, 8],
        "seconds_per_step": 0.1 * (1 + bases[0]), "units": units, "nats": {"words": values},
        "asked": {"held out": {"question": [[value, -value] for value in values]}}, "curves": {"right": [[0, value] for value in values]},
        "said": [{"greedy": {"blank": base}} for base in bases], "runs": [0 if base < 3 else 1 for base in bases], **more,
    }  # fmt: skip


def test_rows_of_some_bases_and_of_those_that_follow_are_the_row_of_all():
    (both,) = earlier.continued([row(range(3))], [row(range(3, 5))])
    assert both == row(range(5)) | {"seconds_per_step": 0.1} and read.bases_of(both) == 5
    assert read.by_base(both, both["nats"]["words"]).tolist() == [0.5, 100.5, 200.5, 300.5, 400.5]
    assert earlier.continued([], [row(range(2))]) == earlier.continued([row(range(2))], []) == [row(range(2))]


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (row(range(2, 4)), "base and seed .2, 0. are there twice"),
        (row(range(3, 5), rate=0.02), "rate was 0.01 and is 0.02"),
        (row(range(3, 5), share={}), "'share'. is told of some bases alone"),
        (row(range(3, 5), nats={"words": [], "stored": []}), "'words'. was told, and now"),
    ],
)
def test_rows_of_other_arms_are_not_joined(after, said):
    with pytest.raises(ValueError, match=said):
        earlier.joined(row(range(3)), after)


def test_an_arm_is_there_where_all_its_ends_are():
    found = Earlier(rows=(row(range(3), steps=4), row(range(3))))
    assert [one["steps"] for one in found.of("medical", "1M", "LoRA r=8", (4, 8))] == [4, 8]
    assert found.of("open", "1M", "LoRA r=8", (4,)) == []
    with pytest.raises(UserError, match=r"measured after \[4, 8\] updates, and would be after \[4, 8, 12\]"):
        found.of("medical", "1M", "LoRA r=8", (4, 8, 12))
    assert earlier.known({"a": [row(range(3))], "b": [row(range(2))]}) == 2
    assert earlier.known({"a": [row(range(3))], "b": []}) == 0


def test_rows_of_parts_that_are_left_out_stay():
    found = Earlier(rows=(row(range(3)), row(range(3), arm="full")))
    assert found.beside([row(range(5))]) == [found.rows[1]]


def test_a_base_that_is_trained_again_is_told_by_what_was_noted_of_the_first():
    """Three runs: the second trains base 0 again for a part that stands alone, the third must not take it for the one that was taught."""
    first = Earlier(bases=1)
    second = Earlier(bases=2, weights=first.weights_beside({"1M": {"0": "again", "1": "b"}, "0.3M": {"0": "s"}}, "1M"))
    assert second.weights == {"1M": {"1": "b"}, "0.3M": {"0": "s"}}
    assert second.weights_beside({"1M": {"1": "other", "2": "c"}}, "1M")["1M"] == {"1": "b", "2": "c"}


def test_fewer_bases_than_a_part_is_compared_with_are_refused():
    settings = dataclasses.replace(PRESETS["full"], parts=("arms", "study"), bases=3)
    with pytest.raises(UserError, match="the part study is compared with parts that have 5 bases"):
        earlier.extended(settings, Earlier(parts=("arms", "others"), bases=5))
    _, now = earlier.extended(settings, Earlier(parts=("arms", "study"), bases=5))
    assert now.bases == 3


def test_sizes_of_two_runs_are_those_of_both():
    settings = dataclasses.replace(PRESETS["full"], parts=("arms", "sizes"), other_sizes=("3M",))
    both, now = earlier.extended(settings, Earlier(parts=("arms", "sizes"), bases=5, sizes=("0.3M",)))
    assert both.other_sizes == ("0.3M", "3M") and now.other_sizes == ("3M",)
    both, _ = earlier.extended(
        dataclasses.replace(PRESETS["full"], parts=("arms",)), Earlier(parts=("arms", "sizes"), sizes=("0.3M",))
    )
    assert both.other_sizes == ("0.3M",)


def test_what_is_brought_to_as_many_bases_is_said_before():
    settings = dataclasses.replace(PRESETS["full"], parts=("arms", "open"))
    before = Earlier(parts=("arms", "others"), bases=3)
    _, now = earlier.extended(settings, before)
    assert "others, which are compared with them, are brought to as many bases" in earlier.told(settings, now, before)


def test_a_part_with_other_questions_is_taught_anew_unless_bases_would_be_lost(capsys):
    about = {"medical": {"source": "x", "left_out": {"too long": 2}}}
    before = Earlier(rows=(row(range(3)),), tuning=({"lesson": "medical"},), questions=about)
    same = runs._of_same_questions
    assert same(before, {"medical": "a"}, about, 3) is before  # no digest was noted
    now = {"medical": {"source": "x", "left_out": {"too long": 3}}}
    dropped = same(before, {"medical": "a"}, now, 3)
    assert dropped.rows == dropped.tuning == () and "it is taught anew" in capsys.readouterr().out
    noted = dataclasses.replace(before, lessons={"medical": "b"})
    assert same(noted, {"medical": "b"}, now, 3) is noted and same(noted, {"medical": "a"}, about, 3).rows == ()
    with pytest.raises(UserError, match="its rows of 3 bases would be lost"):
        same(before, {"medical": "a"}, now, 2)
