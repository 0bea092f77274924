"""Does LoRA learn the best matrix of its rank, as Eckart and Young have it, and is a fixed alpha slower?"""

import dataclasses

import numpy as np
import pytest

from experiments.common.errors import UserError
from experiments.common.recording import RunFolder
from experiments.linear import study as linear
from experiments.linear.study import Settings

pytestmark = pytest.mark.usefixtures("quick_compile")
TINY = Settings(ranks=(1, 4), seeds=2, steps=1200, blocks=4)


@pytest.fixture(scope="module")
def result(tmp_path_factory, quick_compile):
    return linear.run(RunFolder(str(tmp_path_factory.mktemp("linear")), "run", {"settings": {}}), TINY)


def test_every_member_converges_onto_the_bound(result):
    ratios = result["errors"][-1] / result["bounds"]
    assert (ratios >= 1 - 1e-4).all()  # no matrix of that rank can be better
    assert (ratios <= 1.01).all()


def test_the_bounds_are_those_of_numpys_singular_values(result):
    start, target = (np.asarray(result["base"][1][name], np.float64) for name in ("kernel", "teacher"))
    for i, member in enumerate(result["members"]):
        singular = np.linalg.svd(target[i] - start[i], compute_uv=False)
        assert result["bounds"][i] == pytest.approx((singular[member.rank :] ** 2).sum(), rel=1e-4)


def test_both_rules_have_the_same_teachers_and_another_per_seed(result):
    teachers = result["base"][1]["teacher"]
    place = {
        (rule, m.rank, m.seed): i for i, (rule, m) in enumerate(zip(result["rules"], result["members"], strict=True))
    }
    assert np.array_equal(teachers[place["alpha fixed", 1, 0]], teachers[place["alpha = c r", 4, 0]])
    assert not np.array_equal(teachers[place["alpha fixed", 1, 0]], teachers[place["alpha fixed", 1, 1]])


def test_the_inputs_are_white():
    """Or the error of the outputs would not be that of the matrices."""
    x = np.asarray(linear._white_inputs())
    assert np.allclose(x.T @ x, linear.D * np.eye(linear.D), atol=1e-3)


def test_one_program_trains_all_members(result):
    assert result["traces"] == 1 and len(result["members"]) == 2 * 2 * 2


def test_the_summary_and_the_artifact(folder, monkeypatch):
    monkeypatch.setattr(linear, "EARLY_STEPS", 10)
    summary = linear.summary(folder, dataclasses.replace(TINY, steps=400, blocks=40))
    rows = {(row["rule"], row["rank"]): row for row in summary["rows"]}
    assert len(rows) == 4 and summary["base_unchanged"]
    assert summary["early_step"] == 10 and summary["curve_steps"][-1] == 400
    assert rows["alpha fixed", 4]["early_ratio"]["mean"] > rows["alpha = c r", 4]["early_ratio"]["mean"] * 1.05
    for rank in TINY.ranks:
        assert len(rows["alpha fixed", rank]["curve"]) == 41
    assert rows["alpha fixed", 1]["curve"] == rows["alpha = c r", 1]["curve"]  # at r = 1 the rules agree


def test_a_rank_with_nothing_left_to_learn_is_refused():
    with pytest.raises(UserError, match="64 is not below 64"):
        Settings(ranks=(1, 64))
