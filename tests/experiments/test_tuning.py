"""A learning rate off noisy scores: vertex, edges, widening, divergence."""

import numpy as np
import pytest

from experiments.common import tuning
from experiments.common.errors import UserError
from experiments.sst2 import study
from experiments.sst2.settings import Settings

RATES = (3.1e-4, 5.6e-4, 1e-3, 1.8e-3, 3.2e-3)


def bowl(top: float, height: float = 0.8):
    return lambda rate: height - 0.01 * np.log(rate / top) ** 2


def searched(of_rank, ranks=(1,), widenings=4, noise=0.0):
    rounds = []

    def scored(turn, cells):
        rounds.append(cells)
        return [[of_rank[rank](rate) + noise, of_rank[rank](rate) - noise] for rank, rate in cells]

    return tuning.search(ranks, RATES, scored, widenings, "LoRA"), rounds


def test_the_vertex_lies_between_the_rates_and_runs_are_averaged():
    (line,), rounds = searched({1: bowl(1.3e-3)}, noise=0.05)
    assert line["best"] == pytest.approx(1.3e-3) and not line["at_edge"] and line["by"] == "a parabola's vertex"
    assert len(rounds) == 1 and line["runs"]["0.001"][0] - line["runs"]["0.001"][1] == pytest.approx(0.1)


@pytest.mark.parametrize("top", [1.2e-4, 9e-3])
def test_a_range_widens_while_its_best_is_at_an_edge_and_other_ranks_wait(top):
    lines, rounds = searched({1: bowl(top), 8: bowl(1e-3)}, ranks=(1, 8))
    assert [line["best"] for line in lines] == [pytest.approx(top, rel=0.05), 1e-3] and not lines[0]["at_edge"]
    assert len(rounds) > 2 and all([rank for rank, _ in cells] == [1] for cells in rounds[1:])
    tried = sorted(map(float, lines[0]["accuracy"]))
    assert all(b / a == pytest.approx(1.8, rel=0.03) for a, b in zip(tried[:-1], tried[1:], strict=True))


def test_a_range_that_may_not_widen_far_enough_says_that_it_ends_at_an_edge():
    (line,), rounds = searched({1: lambda rate: rate}, widenings=2)
    assert len(rounds) == 3 and line["at_edge"] and line["best"] == max(map(float, line["accuracy"]))


def test_a_rate_at_which_a_run_diverged_bounds_the_range_and_is_no_part_of_the_parabola():
    scores = {**{rate: bowl(1.5e-3)(rate) for rate in RATES[:-1]}, RATES[-1]: None}
    assert tuning.beyond(scores) == 0 and tuning.chosen(scores).best == pytest.approx(1.5e-3)
    # Still rising where it breaks: the best that was tried.
    rising = {**{rate: rate for rate in RATES[:-1]}, RATES[-1]: None}
    assert tuning.beyond(rising) == 0
    assert (tuning.chosen(rising).best, tuning.chosen(rising).at_edge) == (1.8e-3, False)
    assert tuning.beyond(dict.fromkeys(RATES)) == -1


def test_a_curve_without_a_top_takes_the_best_that_was_tried():
    assert tuning.vertex({1e-3: 0.8, 1.8e-3: 0.7, 3.2e-3: 0.8}) is None
    assert tuning.vertex({1e-3: 0.8, 1.8e-3: 0.7}) is None


def test_where_all_diverged_one_sentence_says_so():
    with pytest.raises(UserError, match="diverged at every learning rate of LoRA; give lower --learning_rates"):
        tuning.search((1,), RATES, lambda turn, cells: [[None, 0.5]] * len(cells), 1, "LoRA")


def test_one_rate_for_all_is_that_of_the_best_mean_over_ranks_at_rates_that_all_tried():
    lines, _ = searched({1: bowl(2e-3), 32: bowl(2e-4)}, ranks=(1, 32))
    found = study.at_one_rate(Settings(lora_rates=RATES), lines)
    assert found.lora_rates[0] == pytest.approx((2e-3 * 2e-4) ** 0.5, rel=0.02)
    assert (found.regimes, found.scaling_seeds, found.fixed_alpha) == (("LoRA",), 0, True)
