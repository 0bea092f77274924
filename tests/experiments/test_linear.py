"""Does LoRA learn the best matrix of its rank, in the norm that its inputs weigh, on one layer and on several; and is a fixed alpha slower?"""

import dataclasses

import numpy as np
import pytest
import scipy.linalg

from experiments.common.errors import UserError
from experiments.common.recording import RunFolder
from experiments.common.statistics import estimate
from experiments.linear import chains, early, inputs, study, teachers
from experiments.linear.settings import DECAY, EARLY_STEPS, INPUTS, LAYERS, RULES, D, Settings

pytestmark = pytest.mark.usefixtures("quick_compile")
TINY = Settings(
    ranks=(1, 4), seeds=2, steps=1200, blocks=4, rates=(1e-2, 3e-2, 3.0), tuning_seeds=1, depths=(2,), layer_ranks=(1, 2), deep_steps=600
)  # fmt: skip


@pytest.fixture(scope="module")
def summary(tmp_path_factory, quick_compile):
    return study.summary(RunFolder(str(tmp_path_factory.mktemp("linear")), "run", {"settings": {}}), TINY)


# What is learned, against other routes.


@pytest.mark.parametrize("kind", INPUTS)
def test_c1_the_bound_is_reached_by_a_matrix_of_its_rank_and_by_no_other(kind):
    """The error of `best`, computed as an error, is the bound; matrices near it have more."""
    task, rng = teachers.draw(kind, 3), np.random.default_rng(0)
    least = errors_of(task, np.linalg.lstsq(task.x, task.y - task.x @ task.start, rcond=None)[0])
    for rank in (1, 5, 20):
        best = task.best(rank)
        assert np.linalg.matrix_rank(best) == rank
        assert errors_of(task, best) - least == pytest.approx(task.bounds()[rank], rel=1e-9)
        left, sizes, right = np.linalg.svd(best)
        a, b = left[:, :rank] * sizes[:rank], right[:rank]
        for _ in range(5):
            near = (a + 1e-3 * rng.standard_normal(a.shape)) @ (b + 1e-3 * rng.standard_normal(b.shape))
            assert errors_of(task, near) > errors_of(task, best)


def errors_of(task: teachers.Task, update: np.ndarray) -> float:
    return float(((task.x @ (task.start + update) - task.y) ** 2).sum() / D)


def test_c1_anisotropic_inputs_weigh_the_bound_by_their_covariance():
    task = teachers.draw("anisotropic", 0)
    root = scipy.linalg.sqrtm(task.x.T @ task.x / D).real
    assert np.linalg.cond(root) ** 2 == pytest.approx(teachers.CONDITION, rel=1e-6)
    assert task.bounds() == pytest.approx(
        teachers.tails(np.linalg.svd(root @ task.update, compute_uv=False)), rel=1e-6, abs=1e-9
    )
    left, sizes, right = np.linalg.svd(root @ task.update)
    assert task.best(4) == pytest.approx(np.linalg.solve(root, (left[:, :4] * sizes[:4]) @ right[:4]), abs=1e-8)


def test_c1_noisy_inputs_have_the_bound_of_reduced_rank_regression():
    """Least squares first, then the fitted labels truncated (Izenman 1975): on all 256 inputs, which the task holds as 64 rows."""
    seed, rng = 5, np.random.default_rng([2, INPUTS.index("noisy"), 5])
    task = teachers.draw("noisy", seed)
    x = rng.standard_normal((teachers.MANY, D))
    residual = x @ task.update + teachers.NOISE * rng.standard_normal(x.shape)
    fitted = x @ np.linalg.lstsq(x, residual, rcond=None)[0]
    expected = (np.linalg.svd(fitted, compute_uv=False)[8:] ** 2).sum() / teachers.MANY
    assert task.bounds()[8] == pytest.approx(expected, rel=1e-9)


def test_white_inputs_have_eckart_and_youngs_bound_and_few_do_not_tell_all():
    white, few = (teachers.draw(kind, 1) for kind in ("white", "few"))
    assert np.array_equal(white.update, few.update) and np.array_equal(white.start, few.start)
    sigma = DECAY ** np.arange(D)
    assert white.bounds() == pytest.approx([(sigma[r:] ** 2).sum() for r in range(D + 1)], abs=1e-9)
    assert len(few.bounds()) == teachers.FEW + 1 and few.bounds()[-1] == 0
    assert ((few.best(teachers.FEW) - few.update) ** 2).sum() > 0.1  # what 48 inputs of 64 features cannot know
    assert not np.array_equal(white.update, teachers.draw("white", 2).update)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize(("depth", "rank"), [(1, 3), (2, 4), (4, 2)])
def test_s2_8_updates_are_constructed_that_reach_the_bound(kind, depth, rank):
    chain = chains.draw(kind, depth, 0)
    updates = chains.constructed(chain, rank)
    assert all(np.linalg.matrix_rank(update, tol=1e-8 * np.linalg.norm(update, 2)) == rank for update in updates)
    reached = np.linalg.multi_dot([np.eye(D), *(chain.layers + updates)])
    bound = (np.linalg.svd(chain.update, compute_uv=False)[rank * depth :] ** 2).sum()
    assert ((reached - chain.target) ** 2).sum() == pytest.approx(bound, rel=1e-6)


# What is trained.


def test_every_row_converges_onto_the_bound_of_its_inputs(summary):
    assert [(row["inputs"], row["rule"], row["rank"]) for row in summary["rows"]] == inputs.groups(TINY)
    for row in summary["rows"]:
        ratios = np.asarray(row["by_seed"]["ratio"])
        assert (ratios >= 1 - 1e-4).all() and (ratios <= 1.01).all(), row


def test_where_the_best_matrix_is_one_it_is_learned(summary):
    for row in summary["rows"]:
        learned, best = (np.asarray(row["by_seed"][name]) for name in ("matrix_error", "best_matrix_error"))
        if row["inputs"] == "few":  # neither the drawn a nor Adam's steps stay in what the inputs span
            assert (learned > 1.01 * best).all()
        else:
            assert learned == pytest.approx(best, rel=0.01)


def test_anisotropic_inputs_are_not_on_eckart_and_youngs_bound(summary):
    rows = [row for row in summary["rows"] if row["inputs"] == "anisotropic"]
    assert all(row["matrix_error"]["mean"] > 1.02 * row["eckart_young"]["mean"] for row in rows)


def test_estimates_are_those_of_the_seeds(summary):
    for row in (*summary["rows"], *summary["early"], *summary["deep"]):
        for name, values in row["by_seed"].items():
            assert row[name] == estimate(values) and len(values) == TINY.seeds


def test_one_program_trains_all_members_of_a_part(summary):
    assert summary["traces"] == {"inputs": 1, "early": 1, "deep_2": 1} and summary["base_unchanged"]


def test_first_steps_at_one_rate_and_at_their_own(summary):
    rows = {(row["rule"], row["rank"], row["step"], row["rate"]): row for row in summary["early"]}
    assert len(rows) == 2 * 2 * len(EARLY_STEPS) * 2
    for rank in TINY.ranks:
        at = {rule: rows[rule, rank, 10, "shared"]["error"]["mean"] for rule in RULES}
        assert (at["alpha fixed"] > 1.05 * at["alpha = c r"]) == (rank > 1)  # at r = 1 the rules agree
    assert all(row["learning_rate"] == TINY.learning_rate for row in rows.values() if row["rate"] == "shared")
    own = [row for row in rows.values() if row["rate"] == "own"]
    assert {row["learning_rate"] for row in own} <= {1e-2, 3e-2}  # not the one that is too high by far
    assert {row["at_edge"] for row in own if row["learning_rate"] == 3e-2} == {False}
    assert rows["alpha fixed", 4, 10, "own"]["error"]["mean"] < rows["alpha fixed", 4, 10, "shared"]["error"]["mean"]


def test_a_rate_is_chosen_on_seeds_that_are_not_reported():
    """At a rate where the tuning seed does best and the others do not."""
    settings = dataclasses.replace(TINY, rates=(1e-2, 3e-2), seeds=2)
    errors = np.array([[1.0, 1.0, 5.0], [3.0, 3.0, 2.0]])  # [rates, seeds and tuning seeds]
    rows = early._rows("alpha = c r", 1, 5, errors, settings)
    assert [(row["rate"], row["learning_rate"], row["by_seed"]["error"]) for row in rows] == [
        ("shared", 1e-2, [1.0, 1.0]), ("own", 3e-2, [3.0, 3.0]),
    ]  # fmt: skip


def test_a_rate_that_diverged_is_not_chosen():
    errors = np.array([[2.0, 2.0, 2.0], [1.0, 1.0, np.nan], [1.0, 1.0, np.inf]])
    rows = early._rows("alpha fixed", 1, 5, errors, TINY)
    assert rows[1]["learning_rate"] == TINY.rates[0] and rows[1]["at_edge"]
    with pytest.raises(UserError, match="diverged at every rate of alpha fixed, r = 1"):
        early._rows("alpha fixed", 1, 5, np.full((3, 3), np.nan), TINY)


def test_layers_are_on_the_bound_of_all_their_ranks(summary):
    rows = summary["deep"]
    assert [(row["layers"], row["depth"], row["rank"], row["of"]) for row in rows] == [
        (kind, 2, rank, 2 * rank) for kind in LAYERS for rank in (1, 2)
    ]
    for row in rows:
        least = (DECAY ** (2 * np.arange(row["of"], D))).sum()
        assert row["bound"]["mean"] == pytest.approx(least, rel=1e-6)
        ratios = np.asarray(row["by_seed"]["ratio"])
        assert (ratios >= 1 - 1e-4).all() and (ratios < (1.01 if row["layers"] == "orthogonal" else 1.2)).all()


def test_a_part_that_is_not_asked_for_is_not_trained(folder):
    settings = Settings(ranks=(1,), seeds=1, steps=4, blocks=2, inputs=("white",), rates=(), depths=())
    summary = study.summary(folder, settings)
    assert summary["early"] == summary["deep"] == [] and set(summary["traces"]) == {"inputs"}
    assert len(summary["rows"]) == 2


def test_few_inputs_are_left_out_where_a_rank_fits_all_of_them(folder, capsys):
    settings = Settings(ranks=(4, 48), seeds=2, steps=4, blocks=2, inputs=("white", "few"), rates=(), depths=())
    rows = study.summary(folder, settings)["rows"]
    assert [row["rank"] for row in rows if row["inputs"] == "few"] == [4]
    assert [row["rank"] for row in rows if row["inputs"] == "white"] == [4, 48, 4, 48]
    assert "rank 48 fits all of them, so 48 is left out there" in capsys.readouterr().out


def test_a_rank_with_nothing_left_to_learn_is_refused():
    with pytest.raises(UserError, match="64 is not below 64"):
        Settings(ranks=(1, 64))


def test_the_shared_rate_is_one_of_those_that_are_tried():
    with pytest.raises(UserError, match="0.01 is none of the rates"):
        Settings(rates=(1.0,))
