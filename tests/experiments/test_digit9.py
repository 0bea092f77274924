"""Are the batches and the rows of the digit-9 studies what they say?"""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common import phases
from experiments.common.recording import RunFolder
from experiments.common.statistics import estimate
from experiments.digit9 import command, outcomes, programs
from experiments.digit9 import study as digit9
from experiments.digit9.treatments import RANKS, S0_TREATMENTS, S1_TREATMENTS, STREAMS, Treatment, draw_batches, shares

LABELS = np.random.default_rng(0).integers(10, size=20_000)


@pytest.mark.parametrize("stream", STREAMS)
def test_batches_have_the_digits_of_their_stream(stream):
    rows = draw_batches(stream, 9, LABELS, seed=0, steps=400, batch_size=10)
    assert (rows.dtype, rows.shape) == (np.int32, (400, 10))
    expected = shares(stream, 9)
    expected = np.bincount(LABELS) / len(LABELS) if expected is None else expected
    found = np.bincount(LABELS[rows].ravel(), minlength=10) / rows.size
    assert np.allclose(found, expected, atol=4 * np.sqrt(0.25 / rows.size))
    assert expected.sum() == pytest.approx(1)
    if stream == "digit alone":
        assert set(LABELS[rows].ravel()) == {9}


def test_no_image_is_drawn_twice_while_there_are_others():
    rows = draw_batches("half replay", 9, LABELS, seed=0, steps=100, batch_size=10)
    assert len(set(rows.ravel())) == rows.size
    few = np.arange(40) % 10  # 4 images of each digit must do for 200
    assert draw_batches("digit alone", 9, few, seed=0, steps=20, batch_size=10).shape == (20, 10)


def test_batches_depend_on_the_seed_alone():
    one, same, other = (draw_batches("balanced", 9, LABELS, seed, 5, 4) for seed in (1, 1, 2))
    assert np.array_equal(one, same) and not np.array_equal(one, other)


# The table of treatments.


@pytest.mark.parametrize("treatments", [S0_TREATMENTS, S1_TREATMENTS])
def test_every_treatment_has_its_own_name_and_folder(treatments):
    folders = ["".join(c if c.isalnum() else "_" for c in treatment.name) for treatment in treatments]
    assert len(set(folders)) == len(treatments)
    assert treatments[0].kind == "study"


def test_every_mitigation_of_s0_is_a_row():
    rows = S0_TREATMENTS
    assert {row.stream for row in rows} == set(STREAMS)
    assert {"focal", "cross entropy"} == {row.loss for row in rows}
    assert any(row.quantise for row in rows) and any(row.decay for row in rows) and any(row.stop_early for row in rows)
    assert {8, 16, 64} <= {row.rank for row in rows} and {1, 4, 64} <= {row.alpha for row in rows}
    assert any(row.is_weighted for row in rows) and any(row.targets for row in rows)


@pytest.mark.parametrize("study", [digit9.S0, digit9.S1])
def test_every_rank_has_two_step_sizes_and_ranks_share_programs(study):
    rows = [row for row in study.treatments if row.step]
    assert {(row.rank, row.step) for row in rows} == {(rank, step) for rank in RANKS for step in ("own", "larger")}
    assert len(rows) == 12 and {row.stream for row in rows} == {"digit alone"}
    assert len({programs.kind(row, study.targets, 9) for row in rows}) == len(programs.PADDED)


def test_errors_are_counted_after_every_batch_while_they_run():
    assert digit9.measured_after(digit9.S0) == list(range(1, 101))
    sparse = digit9.measured_after(digit9.S1)
    assert sparse[-1] == 100 and all(b - a <= max(1, b / 4) for a, b in zip([0, *sparse], sparse, strict=False))


@pytest.mark.parametrize("study", [digit9.S0, digit9.S1])
def test_smaller_presets_keep_a_row_of_each_kind(study):
    for name, settings in digit9.presets(study).items():
        assert settings.treatments[0] == study.treatments[0], name
        assert {(row.kind, row.step) for row in settings.treatments} == {
            (row.kind, row.step) for row in study.treatments
        }


# One small study, end to end.

TREATMENTS = (
    Treatment("LoRA", kind="study", rank=2, learning_rate=3e-2),
    Treatment("bias", kind="suspect", rank=None, train=("*/bias",), learning_rate=0.0),
    Treatment("stops", rank=2, stop_early=True, learning_rate=3e-2, alpha=4, quantise=True, decay=0.1, loss="focal"),
)
TINY = digit9.Settings(
    "s0", (12,), base_batch=10, targets=("hidden_0", "classifier"), seeds=2, base_epochs=4, batches=20,
    measured=((4, 1), (20, 8)), treatments=TREATMENTS,
)  # fmt: skip


@pytest.fixture(scope="module")
def summary(tmp_path_factory, small_mnist, quick_compile):
    folder = RunFolder(str(tmp_path_factory.mktemp("digit9")), "run", {"settings": {}})
    return json.loads(json.dumps(digit9.run(folder, TINY, small_mnist), allow_nan=False))


def row(summary, name: str) -> dict:
    return next(row for row in summary["rows"] if row["name"] == name)


def test_the_base_never_moves_and_comes_back_with_the_adapter_off(summary):
    assert summary["base_unchanged"] and row(summary, "LoRA")["adapter_off_equals_base"]
    assert row(summary, "LoRA")["adapter_off_errors"] == row(summary, "bias")["before_by_seed"]


def test_parameters_are_counted(summary):
    sizes = {"LoRA": 2 * (784 + 12 + 12 + 10), "bias": 12 + 10, "stops": 2 * (784 + 12 + 12 + 10)}
    assert {row["name"]: row["parameters"] for row in summary["rows"]} == sizes
    assert summary["base_parameters"] == 784 * 12 + 12 + 12 * 10 + 10


def test_digit_9_alone_drives_out_the_others(summary):
    study = row(summary, "LoRA")
    assert study["digit_after"]["mean"] < study["digit_before"]["mean"]
    assert study["others_added"]["mean"] > 20
    assert study["accuracy_after"]["mean"] < study["accuracy_before"]["mean"]


def test_rows_add_up(summary):
    for line in summary["rows"]:
        before, after = ([e["mean"] for e in line[key]] for key in ("before", "after"))
        assert line["net_errors_added"]["mean"] == pytest.approx(sum(after) - sum(before))
        assert line["others_added"]["mean"] == pytest.approx(sum(after[:9]) - sum(before[:9]))
        assert line["accuracy_after"]["mean"] == pytest.approx(1 - sum(after) / 200)
        assert line["curve_batches"] == [0, 1, 2, 3, 4, 12, 20]
        assert ("curves" in line) == (line["kind"] != "mitigation")
        if "curves" in line:
            assert [wrong[0] for wrong in line["curves"]["wrong"]] == line["by_seed"]["digit_before"]
            assert [added[-1] for added in line["curves"]["added"]] == line["by_seed"]["others_added"]
    assert summary["test_counts"] == [20] * 10


def test_a_rate_of_zero_changes_nothing(summary):
    still = row(summary, "bias")
    assert still["before"] == still["after"] and still["net_errors_added"]["mean"] == 0


def test_early_stopping_stops_where_validation_is_best(summary):
    stopped = row(summary, "stops")["stopped_at_batch"]["mean"]
    assert stopped < 20  # training on 9 alone only harms the validation images
    assert row(summary, "LoRA")["stopped_at_batch"] is None
    ended = row(summary, "stops")
    for half, stop in zip(ended["at_half"]["batches_by_seed"], ended["by_seed"]["stopped_at_batch"], strict=True):
        assert half is None or half <= stop


def test_estimates_follow_from_what_is_kept_of_each_seed(summary):
    for line in summary["rows"]:
        assert {name: estimate(values) for name, values in line["by_seed"].items()} == {
            name: line[name] for name in line["by_seed"]
        }
        assert [estimate(errors) for errors in zip(*line["after_by_seed"], strict=True)] == line["after"]
        found = line["at_half"]
        reached = [value for value in found["added_by_seed"] if value is not None]
        assert found["reached"] == len(reached) and found["added"] == (estimate(reached) if reached else None)


def test_confusions_are_the_errors_by_what_they_are_taken_for(summary):
    study = row(summary, "LoRA")
    for when in ("before", "after"):
        cells = np.asarray(study[f"confusions_{when}"])  # [M, C, C]
        assert cells.sum(axis=2).tolist() == study[f"{when}_by_seed"]
        assert not cells[:, range(10), range(10)].any()
    added = np.subtract(study["confusions_after"], study["confusions_before"])[:, :9]
    assert added[:, :, 9].sum() > 0.5 * added.sum()  # all were taught to be a 9


def test_the_equal_gain_is_interpolated_and_seeds_that_miss_it_are_counted():
    nines = np.array([[10, 8, 12], [6, 8, 12], [4, 4, 11], [0, 0, 7]])  # [K, M]
    added = np.array([[0, 0, 0], [1, 1, 1], [3, 9, 2], [49, 49, 3]])
    batches, ends = np.array([0, 2, 4, 6]), np.full(3, 3)
    found = outcomes.at_half(nines, added, batches, ends)
    assert found["added_by_seed"] == [2.0, 9.0, None] and found["batches_by_seed"] == [3.0, 4.0, None]
    assert (found["reached"], found["of"], found["added"]["mean"]) == (2, 3, 5.5)
    assert outcomes.at_half(nines[:1], added[:1], batches[:1], 0 * ends)["added"] is None


def test_a_run_that_stops_early_does_not_get_to_what_comes_after():
    nines, added = np.array([[10, 10], [6, 6], [4, 4], [0, 0]]), np.array([[0, 0], [1, 1], [3, 3], [49, 49]])
    found = outcomes.at_half(nines, added, np.array([0, 2, 4, 6]), np.array([1, 2]))
    assert found["added_by_seed"] == [None, 2.0] and found["batches_by_seed"] == [None, 3.0]


def line(wrong, added, end=-1) -> dict:
    """A row of one seed, as `at_dose` reads it."""
    return {
        "by_seed": {"digit_after": [wrong[end]], "others_added": [added[end]]},
        "curves": {"wrong": [wrong], "added": [added]},
    }


def test_a_dose_is_the_largest_gain_that_both_ways_have():
    study = line([80, 40, 20], [0, 40, 100])
    short, long = line([80, 70, 60], [0, 2, 4]), line([80, 30, 10], [0, 50, 90])
    assert outcomes.at_dose(short, study) == {
        "wrong_at_dose": [60],
        "added_at_dose": [4.0],
        "study_added_at_dose": [20.0],
    }
    assert outcomes.at_dose(long, study) == {
        "wrong_at_dose": [20],
        "added_at_dose": [70.0],
        "study_added_at_dose": [100.0],
    }
    stays = line([80, 60, 20, 20], [0, 10, 50, 500])  # what comes after the gain is not held against it
    assert (
        outcomes.at_dose(stays, study)["added_at_dose"]
        == [50.0]
        == outcomes.at_dose(study, stays)["study_added_at_dose"]
    )
    worse = line([80, 90, 85], [0, -5, -7])  # no gain, so nothing to compare
    assert outcomes.at_dose(worse, study) == {
        "wrong_at_dose": [85],
        "added_at_dose": [0.0],
        "study_added_at_dose": [0.0],
    }


def test_rows_of_a_padded_rank_are_those_of_the_rank(small_mnist, tmp_path, quick_compile, monkeypatch):
    settings = dataclasses.replace(TINY, treatments=TREATMENTS[:1])
    found = {}
    for padded in ((2,), (5,)):
        monkeypatch.setattr(programs, "PADDED", padded)
        folder = RunFolder(str(tmp_path / str(padded)), "run", {"settings": {}})
        found[padded] = digit9.run(folder, settings, small_mnist)["rows"][0]
    assert found[(2,)]["parameters"] == found[(5,)]["parameters"]
    assert np.allclose(found[(2,)]["after_by_seed"], found[(5,)]["after_by_seed"], atol=1)


def test_class_weights_make_classes_count_alike(small_mnist):
    weighted = Treatment("w", stream="half replay", is_weighted=True)
    weights = np.asarray(programs.kind(weighted, ("classifier",), 9).class_weights)
    assert weights @ shares("half replay", 9) == pytest.approx(1) and weights[9] == pytest.approx(0.2)


def test_a_row_that_is_done_is_not_trained_again(summary, small_mnist, tmp_path, quick_compile, monkeypatch):
    folder = RunFolder(str(tmp_path), "run", {"settings": {}})
    settings = dataclasses.replace(TINY, treatments=TREATMENTS[:2])
    first = digit9.run(folder, settings, small_mnist)
    assert not (folder.path / "phases" / "LoRA").exists()  # no need of its state any more
    trained = []
    train = phases.train
    monkeypatch.setattr(
        phases, "train", lambda folder, phase, *args, **kw: trained.append(phase) or train(folder, phase, *args, **kw)
    )
    assert json.loads(json.dumps(first)) == json.loads(json.dumps(digit9.run(folder, settings, small_mnist)))
    assert "LoRA" not in trained and "bias" not in trained


def test_s1_has_the_parameters_of_the_study():
    bases = jax.eval_shape(lambda: digit9.MLP(digit9.S1.hidden).init(jax.random.key(0), jnp.ones((1, 784)))["params"])
    zeros = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), (1, *leaf.shape)), bases)
    study = S1_TREATMENTS[0]
    program = programs.Program(digit9.MLP(digit9.S1.hidden), programs.kind(study, digit9.S1.targets, 9), "sequential")
    stacked, trainable = program.adapted(study, zeros)
    assert trainable == 6_794
    assert sum(leaf.size for leaf in jax.tree.leaves(bases)) == 2_807_010
    assert stacked["classifier"]["lora_a"].shape == (1, 2000, 16)  # padded


def test_for_another_digit_no_class_is_called_weak(capsys):
    assert command._of_digit(digit9.S0) == digit9.S0
    found = command._of_digit(dataclasses.replace(digit9.S0, digit=3))
    assert len(found.treatments) == len(digit9.S0.treatments) - 2
    assert "--digit=3: 'weak classes oversampled' is left out" in capsys.readouterr().out
