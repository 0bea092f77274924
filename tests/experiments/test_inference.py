"""Do the rules of inference say what scipy, simulation and arithmetic say, and no more than the numbers bear?"""

import numpy as np
import pytest
from scipy import stats

from experiments.ledger import inference
from experiments.ledger.inference import Fact

RNG = np.random.default_rng(5)


def draw(mean, n=10, sd=1.0, rng=RNG):
    return rng.normal(mean, sd, n)


@pytest.mark.parametrize("shift", [-2.0, -0.3, 0.0, 0.3, 2.0])
def test_more_and_less_are_the_paired_t_test(shift):
    a, b = draw(shift), draw(0.0)
    expected = stats.ttest_rel(a, b)
    more, less = inference.more("", a, b), inference.less("", a, b)
    assert more.p == less.p == pytest.approx(expected.pvalue)
    settled = expected.pvalue < 0.05
    assert more.true == (bool(expected.statistic > 0) if settled else None)
    assert less.true == (bool(expected.statistic < 0) if settled else None)


def test_a_bar_that_lies_within_the_interval_settles_nothing():
    """The referee's S2.6: -1.72 [-2.08, -1.36] was called "not within 2 points"."""
    half = 0.36 / stats.t.ppf(0.975, 4) * np.sqrt(5)
    values = -1.72 + half * np.array([-1.0, -1.0, 0.0, 1.0, 1.0])
    assert inference.more("within 2 points", values, bar=-2.0).true is None
    assert inference.more("above -3", values, bar=-3.0).true is True
    assert inference.more("above -1", values, bar=-1.0).true is False


def test_equivalence_errs_at_its_level():
    """At the edge of the margin "equivalent" is said in 5 % of cases, and hardly ever beyond."""
    rng = np.random.default_rng(1)
    said = [inference.equivalent("", draw(1.0, rng=rng), np.zeros(10), 1.0).true for _ in range(1500)]
    assert 0.03 < np.mean([answer is True for answer in said]) < 0.07
    far = [inference.equivalent("", draw(2.5, rng=rng), np.zeros(10), 1.0).true for _ in range(300)]
    assert not any(answer is True for answer in far) and np.mean([answer is False for answer in far]) > 0.9


def test_absence_of_evidence_is_not_equivalence():
    wide = 20 * np.array([-1.0, 1.0, 0.5, -0.5])
    assert inference.more("", wide).true is None and inference.equivalent("", wide, np.zeros(4), 1.0).true is None
    assert inference.equivalent("", 0.01 * wide, np.zeros(4), 1.0).true is True


def test_the_interval_of_a_ratio_holds_it_as_often_as_it_says():
    rng = np.random.default_rng(2)
    held = 0
    for _ in range(1000):
        common = rng.normal(0, 2, 8)
        a, b = 12 + common + rng.normal(0, 1, 8), 10 + common + rng.normal(0, 1, 8)
        low, high = inference.fieller(a, b, 0.9)
        held += low < 1.2 < high
    assert 0.87 < held / 1000 < 0.93
    assert inference.fieller([1.0, 2.0, 3.0], [-1.0, 1.0, 0.5]) is None  # b is not told from 0
    assert inference.alike("", [10.0, 10.4, 9.7], [5.0, 5.1, 4.9], 0.2).true is False
    assert inference.alike("", [1.0, 2.0, 3.0], [-1.0, 1.0, 0.5], 0.2).true is None


def test_items_widen_an_interval_that_seeds_make_narrow():
    """Five models that agree with one another tell nothing of other sentences."""
    rng = np.random.default_rng(3)
    sentences = rng.random(200)
    a = np.repeat((sentences < 0.86)[None], 5, axis=0).astype(float)
    b = np.repeat((rng.permutation(sentences) < 0.83)[None], 5, axis=0).astype(float)
    a[0, 0] = 1 - a[0, 0]
    assert inference.more("", a.mean(axis=1), b.mean(axis=1)).true is True
    assert inference.over_items("", a, b).true is None


def test_items_and_units_err_at_most_at_their_level():
    rng, wrong = np.random.default_rng(4), 0
    for _ in range(300):
        units, items = rng.normal(0, 0.1, (2, 6, 1)), rng.normal(0, 1, (1, 150))
        scores = rng.normal(0, 1, (2, 6, 150)) + units + items
        wrong += inference.over_items("", *(scores > 0).astype(float)).true is not None
    assert wrong / 300 < 0.075


def test_an_equivalence_that_seeds_alone_would_find_is_not_settled_over_few_items():
    rng = np.random.default_rng(5)
    items = rng.random(400)
    a, b = (np.repeat((drawn < 0.9)[None], 6, axis=0).astype(float) for drawn in (items, rng.permutation(items)))
    a[0, 0] = 1 - a[0, 0]
    assert inference.equivalent("", a.mean(axis=1), b.mean(axis=1), 0.01).true is True
    assert inference.equivalent_over_items("", a, b, 1.0).true is None
    assert inference.equivalent_over_items("", a, b, 10.0).true is True
    assert inference.equivalent_over_items("", a, 1 - a, 10.0).true is False


def test_items_and_units_that_all_agree_leave_no_doubt():
    ones = np.ones((3, 20))
    assert inference.over_items("", ones, 0 * ones, bar=98).true is True
    assert inference.over_items("", 0 * ones, 0 * ones, bar=98).true is False
    assert inference.over_items("", ones, ones).true is None
    assert inference.equivalent_over_items("", ones, ones, 0.5).true is True


def test_the_two_ways_to_ask_over_items_have_one_standard_error():
    a, b = (np.random.default_rng(8).random((2, 5, 60)) > 0.3).astype(float)
    ends = inference.equivalent_over_items("", a, b, 1.0, digits=6).shown.split("[")[1].split("]")[0].split(", ")
    low = float(ends[0])
    at_low = inference.over_items("", a, b, bar=low)
    assert abs(at_low.p - 0.1) < 1e-3  # a one-sided test of 5 % at the end of the 90 % interval


def test_slopes_and_curvatures_are_those_of_the_polynomials():
    x = np.log2([1, 2, 4, 8])
    y = np.stack([3 - 0.5 * x + 0.1 * x**2, 1 + 2 * x])
    np.testing.assert_allclose(inference.slope(x, y, 2), [0.1, 0.0], atol=1e-12)
    np.testing.assert_allclose(inference.slope(x, y[1:]), [2.0])


def test_a_family_shares_its_level():
    facts = [Fact(str(i), True, "", p, True) for i, p in enumerate([0.012, 0.04, 0.2, 0.001])]
    assert [fact.true for fact in inference.holm(facts)] == [True, None, None, True]
    rng, any_wrong = np.random.default_rng(6), 0
    for _ in range(400):
        any_wrong += any(
            fact.true is not None for fact in inference.holm([inference.more("", draw(0, rng=rng)) for _ in range(5)])
        )
    assert any_wrong / 400 < 0.075


def test_a_published_number_beside_an_interval_that_holds_everything():
    values = [0.93, 0.80, 0.96, 0.90, 0.87]
    assert "says nothing" in inference.one_run(0.843, values, unchanged=0.953)
    assert "within" in inference.one_run(0.843, values)
    assert "outside" in inference.one_run(0.5, values)


def test_a_published_number_is_compared_as_rounded_as_it_was_published():
    """0.962 is not outside [0.946, 0.962], of which the upper end is 0.96179."""
    values = np.mean([0.946, 0.96179]) + 0.00316 * stats.zscore(np.arange(10.0))
    said = inference.one_run(0.962, values, unchanged=0.95381)
    assert "[0.946, 0.962]" in said and "says nothing" in said and "unchanged (0.954)" in said
    assert "outside" in inference.one_run(0.963, values)


def test_a_p_says_of_which_bar_it_is():
    values = 17.3 + np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
    assert (
        " for the bar 10" in inference.more("", values, bar=10).shown and "bar" not in inference.more("", values).shown
    )


@pytest.mark.parametrize("rule", [inference.more, inference.less])
def test_one_unit_settles_nothing(rule):
    assert rule("", [5.0], [1.0]).true is None
    assert (
        inference.equivalent("", [5.0], [5.0], 1.0).true is None and inference.alike("", [5.0], [5.0], 0.1).true is None
    )


def test_two_units_have_one_degree_of_freedom():
    """By Satterthwaite's rule items would lend them theirs."""
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(400):
        scores = rng.normal(0, 1, (2, 1)) + rng.normal(0, 0.2, (2, 300))
        low, high = (
            float(end.strip("[],")) for end in inference.over_items("", scores, 0 * scores, factor=1).shown.split()[1:3]
        )
        covered += low <= 0 <= high
    assert 0.92 < covered / 400 < 0.98
