"""Are the intervals Student's?"""

import numpy as np
import pytest
from scipy import stats

from experiments.common.statistics import estimate, text


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
