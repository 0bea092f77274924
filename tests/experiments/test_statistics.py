"""Are the intervals Student's, Wilson's, and those of resamples?"""

import numpy as np
import pytest
from scipy import stats

from experiments.common import statistics
from experiments.common.statistics import bootstrap, estimate, paired, text, wilson


@pytest.mark.parametrize("n", [2, 5, 10])
def test_the_interval_is_students(n):
    values = np.random.default_rng(n).normal(3, 2, size=n)
    low, high = stats.t.interval(0.95, n - 1, loc=values.mean(), scale=stats.sem(values))
    e = estimate(values)
    assert (e["mean"], e["low"], e["high"], e["n"]) == pytest.approx((values.mean(), low, high, n))


def test_it_covers_the_truth_19_times_in_20():
    rng = np.random.default_rng(0)
    draws = [estimate(rng.normal(size=5)) for _ in range(2000)]
    assert np.mean([e["low"] < 0 < e["high"] for e in draws]) == pytest.approx(0.95, abs=0.015)


def test_one_run_has_no_interval_and_equal_runs_one_of_width_0():
    assert estimate([0.5]) == {"mean": 0.5, "low": None, "high": None, "n": 1}
    assert estimate([0.5, 0.5, 0.5]) == {"mean": 0.5, "low": 0.5, "high": 0.5, "n": 3}


def test_text():
    assert text(estimate([0.5]), 1, 100) == "50.0"
    assert text({"mean": 0.5, "low": -0.1, "high": 1.1, "n": 2}, 1) == "0.5 [-0.1, 1.1]"


def test_wilsons_interval_is_that_of_the_score_test():
    """By another route: the ends are the shares that a test at this level just does not reject."""
    for right, n in ((0, 12), (3, 40), (20, 40), (40, 40)):
        found = wilson(right, n)
        z = stats.norm.ppf(0.975)
        for end in (found["low"], found["high"]):
            if 0 < end < 1:
                assert abs(right / n - end) / np.sqrt(end * (1 - end) / n) == pytest.approx(z)
        assert found["low"] <= found["mean"] <= found["high"]
    assert wilson(0, 12)["low"] == 0 and wilson(12, 12)["high"] == 1


def _answers(both: int, gained: int, lost: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    """What is right before and after, of so many items."""
    counts = (both, gained, lost, neither)
    return np.repeat([True, False, True, False], counts), np.repeat([True, True, False, False], counts)


def test_a_paired_difference_is_newcombes():
    """Table II of Newcombe 1998, method 10: 36, 12, 2, 0."""
    found = paired(*_answers(36, 12, 2, 0))
    assert found["mean"] == pytest.approx(0.2) and found["n"] == 50
    assert (found["low"], found["high"]) == pytest.approx((0.0569, 0.3404), abs=5e-5)
    turned = paired(*_answers(36, 12, 2, 0)[::-1])
    assert (turned["low"], turned["high"]) == pytest.approx((-found["high"], -found["low"]))


def test_a_paired_difference_covers_the_truth_and_has_a_width_where_nothing_changes():
    share = (0.4, 0.2, 0.1, 0.3)
    drawn = [paired(*_answers(*counts)) for counts in np.random.default_rng(0).multinomial(30, share, 1000)]
    assert 0.93 <= np.mean([of["low"] <= share[1] - share[2] <= of["high"] for of in drawn]) <= 0.98
    for counts in ((0, 0, 0, 18), (18, 0, 0, 0), (0, 18, 0, 0), (0, 0, 1, 0)):
        found = paired(*_answers(*counts))
        assert -1 <= found["low"] <= found["mean"] <= found["high"] <= 1 and found["high"] - found["low"] > 0.1


def test_resamples_held_in_parts_are_the_same_resamples(monkeypatch):
    values = np.random.default_rng(1).normal(size=50)
    whole = bootstrap(lambda rows: values[rows].mean(-1), 50)
    most = []
    monkeypatch.setattr(statistics, "MOST_DRAWN", 350)

    def mean(rows):
        most.append(rows.size)
        return values[rows].mean(-1)

    assert bootstrap(mean, 50) == whole and max(most) == 350


def test_a_bootstrap_of_means_is_about_students_interval():
    values = np.random.default_rng(1).normal(size=200)
    found = bootstrap(lambda rows: values[rows].mean(-1), 200)
    student = estimate(values)
    assert found["mean"] == pytest.approx(student["mean"])
    assert found["low"] == pytest.approx(student["low"], abs=0.02) and found["high"] == pytest.approx(
        student["high"], abs=0.02
    )
    assert bootstrap(lambda rows: values[rows].mean(-1), 1)["low"] is None
