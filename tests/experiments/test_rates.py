"""A range of learning rates is widened until its best has neighbours."""

import math

import pytest

from experiments.common.rates import searched


def test_a_best_inside_is_taken_at_once():
    asked = []

    def losses_at(rates):
        asked.append(list(rates))
        return [abs(math.log(rate / 3e-3)) for rate in rates]

    assert searched((1e-2, 1e-3, 3e-3), losses_at, 3)[0] == [1e-3, 3e-3, 1e-2] and len(asked) == 1


@pytest.mark.parametrize(
    "best, widenings, rates",
    [
        (1e-4, 3, [3e-5, 9e-5, 3e-4, 1e-3, 3e-3]),
        (1e-1, 5, [1e-3, 3e-3, 9e-3, 3e-2, 1e-1, 3e-1]),
        (1e-1, 1, [1e-3, 3e-3, 9e-3]),
        (1e-1, 0, [1e-3, 3e-3]),
    ],
)
def test_a_best_at_an_edge_widens_the_range(best, widenings, rates):
    found, losses = searched((1e-3, 3e-3), lambda asked: [abs(math.log(rate / best)) for rate in asked], widenings)
    assert found == rates and len(losses) == len(rates)


def test_where_training_diverges_lower_rates_are_tried():
    found, losses = searched((1.0, 10.0), lambda asked: [math.nan if rate > 0.05 else rate for rate in asked], 3)
    assert found[:3] == [1e-3, 1e-2, 1e-1] and losses[-3:] == [math.inf] * 3
