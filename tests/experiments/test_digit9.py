"""Are the batches and the rows of the digit-9 studies what they say?"""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common.recording import RunFolder
from experiments.digit9 import study as digit9
from experiments.digit9.treatments import S0_TREATMENTS, S1_TREATMENTS, STREAMS, Treatment, draw_batches, shares

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


# One small study, end to end.

TREATMENTS = (
    Treatment("LoRA", kind="study", rank=2, learning_rate=3e-2),
    Treatment("bias", kind="suspect", rank=None, train=("*/bias",), learning_rate=0.0),
    Treatment("stops", rank=2, stop_early=True, learning_rate=3e-2, alpha=4, quantise=True, decay=0.1, loss="focal"),
)
TINY = digit9.Settings(
    "s0", (12,), base_batch=10, targets=("hidden_0", "classifier"), seeds=2, base_epochs=4, batches=20, blocks=2,
    treatments=TREATMENTS,
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
        assert line["curve"][0] == pytest.approx(before) and line["curve_batches"] == [0, 10, 20]
    assert summary["test_counts"] == [20] * 10


def test_a_rate_of_zero_changes_nothing(summary):
    still = row(summary, "bias")
    assert still["before"] == still["after"] and still["net_errors_added"]["mean"] == 0


def test_early_stopping_stops_where_validation_is_best(summary):
    stopped = row(summary, "stops")["stopped_at_batch"]["mean"]
    assert stopped < 20  # training on 9 alone only harms the validation images
    assert row(summary, "LoRA")["stopped_at_batch"] is None


def test_the_equal_gain_is_read_at_the_first_measurement_that_has_it():
    test = np.zeros((4, 2, 10), int)  # [blocks + 1, M, C]
    test[:, :, 9] = [[10, 8], [6, 8], [5, 4], [0, 0]]
    test[:, :, 3] = [[1, 1], [2, 2], [4, 10], [50, 50]]
    others = list(range(9))
    assert digit9._at_equal_gain(test, 9, others)["mean"] == pytest.approx((3 + 9) / 2)
    assert digit9._at_equal_gain(test[:2], 9, others) is None


def test_s1_has_the_parameters_of_the_study():
    bases = jax.eval_shape(lambda: digit9.MLP(digit9.S1.hidden).init(jax.random.key(0), jnp.ones((1, 784)))["params"])
    settings = dataclasses.replace(digit9.S1, seeds=1)
    zeros = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), (1, *leaf.shape)), bases)
    _, stacked = digit9._adapted(settings, S1_TREATMENTS[0], digit9.MLP(settings.hidden), zeros)
    mask = digit9.lora_jax.trainable_mask(stacked)
    report = digit9.lora_jax.report(jax.tree.map(lambda leaf: leaf[0], stacked), mask)
    assert (report.base, report.trainable) == (2_807_010, 6_794)
