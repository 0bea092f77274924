"""Does the main job train all ranks in one program per regime, and write what it measured?"""

import dataclasses
import json

import numpy as np
import pytest

from experiments.common.errors import UserError
from experiments.common.recording import RunFolder
from experiments.data import mnist
from experiments.linear import study as linear
from experiments.rank import study as rank_mnist
from experiments.rank.study import Settings
from tests.experiments.one_part import ONE_PART

TINY = Settings(
    ranks=(1, 4), head_rates=(1e-2,), lora_rates=(1e-2, 1e-7), full_rates=(1e-2,), seeds=2, base_epochs=6, steps=200, blocks=2,
    batch_size=16,
)  # fmt: skip
HIDDEN = (24, 12)
BASE = 784 * 24 + 24 + 24 * 12 + 12 + 12 * 10 + 10

pytestmark = pytest.mark.usefixtures("quick_compile")


@pytest.fixture(scope="module")
def summary(tmp_path_factory, small_mnist, quick_compile):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rank_mnist, "HIDDEN", HIDDEN)
        folder = RunFolder(str(tmp_path_factory.mktemp("rank")), "run", {"settings": {}})
        return json.loads(json.dumps(rank_mnist.run(folder, TINY, small_mnist), allow_nan=False))


def row(summary, regime, rank=None):
    (found,) = (row for row in summary["rows"] if (row["regime"], row["rank"]) == (regime, rank))
    return found


def test_one_trace_per_regime(summary):
    assert summary["traces"] == {"head only": 1, "LoRA": 1, "full": 1}
    assert [(row["regime"], row["rank"]) for row in summary["rows"]] == [
        ("head only", None), ("LoRA", 1), ("LoRA", 4), ("full", None),
    ]  # fmt: skip


def test_parameters_and_shares(summary):
    lora = 784 + 24 + 24 + 12 + 12 + 10
    assert row(summary, "head only")["parameters"] == 12 * 10 + 10
    assert row(summary, "LoRA", 1)["parameters"] == lora and row(summary, "LoRA", 4)["parameters"] == 4 * lora
    assert row(summary, "full")["parameters"] == BASE and row(summary, "full")["share"] == 1
    assert row(summary, "LoRA", 4)["share"] == pytest.approx(4 * lora / (BASE + 4 * lora))


def test_each_rank_takes_the_rate_that_validation_prefers(summary):
    for rank in (1, 4):
        wrong = row(summary, "LoRA", rank)["validation_errors_by_rate"]
        assert wrong["0.01"] < wrong["1e-07"]
        assert row(summary, "LoRA", rank)["learning_rate"] == 1e-2
    assert not row(summary, "full")["rate_at_edge"]  # one rate has no edge


def test_adaptation_learns_the_new_digits_from_a_base_that_does_not_know_them(summary):
    assert summary["base"]["accuracy_8_9"]["mean"] == 0 and summary["base_unchanged"]
    for line in summary["rows"]:
        assert line["accuracy"]["n"] == 2
        assert len(line["followed_accuracy"]) == len(line["followed_errors_by_class"]) == 3
    assert row(summary, "full")["accuracy_8_9"]["mean"] > 0.3


def test_accuracy_is_that_of_the_errors_by_class(summary):
    for line in summary["rows"]:
        errors = np.asarray(line["errors_by_class"])
        assert line["accuracy"]["mean"] == pytest.approx(1 - errors.sum() / 200)
        assert line["accuracy_8_9"]["mean"] == pytest.approx(1 - errors[8:].sum() / 40)


def test_batches_are_the_seeds_own_and_the_same_for_every_rank():
    members = [
        rank_mnist.sweep.Member(rank, 2.0, rate, seed) for rank in (1, 4) for rate in (0.1, 0.2) for seed in (0, 1)
    ]
    order = rank_mnist._orders(dataclasses.replace(TINY, steps=40), members, 100)
    drawn = np.asarray(order(0))
    assert drawn.shape == (8, 20, 16) and drawn.min() >= 0 and drawn.max() < 100
    assert np.array_equal(drawn[0], drawn[2]) and np.array_equal(drawn[0], drawn[6])
    assert not np.array_equal(drawn[0], drawn[1]) and not np.array_equal(drawn, order(1))


def test_validation_images_are_not_trained_on(small_mnist):
    sets = rank_mnist.arrays(small_mnist)
    train, validation = ({image.tobytes() for image in np.asarray(part["x"])} for part in (sets.train, sets.validation))
    assert len(validation) == 40 and not train & validation
    assert set(np.asarray(sets.old["y"])) == set(range(8))


# The entry.


def test_the_entry_hands_its_flags_on(run_entry, monkeypatch, small_mnist, tmp_path):
    seen = []

    def run(folder, settings, data):
        seen.append(settings)
        raise UserError("enough.")

    monkeypatch.setattr(rank_mnist, "run", run)
    monkeypatch.setattr(mnist, "load", lambda *args, **kwargs: small_mnist)
    given = ("--ranks=8,2", "--learning_rates=1e-2,1e-3", "--seeds=3", "--strategy=vmap", f"--workdir={tmp_path}")
    assert run_entry("rank_sweep.py", "--preset=smoke", *given)[0] == 2
    rates = (1e-3, 1e-2)
    assert seen == [
        dataclasses.replace(
            rank_mnist.PRESETS["smoke"], ranks=(2, 8), head_rates=rates, lora_rates=rates, full_rates=rates, seeds=3, strategy="vmap"
        )
    ]  # fmt: skip


def test_the_linear_teacher_from_the_command_line(run_entry, monkeypatch, tmp_path):
    monkeypatch.setitem(linear.PRESETS, "smoke", linear.Settings(ranks=(1,), seeds=1, steps=20, blocks=2, **ONE_PART))
    given = ("--task=linear_teacher", "--preset=smoke", "--ranks=3,1", f"--workdir={tmp_path}")
    status, stdout, stderr = run_entry("rank_sweep.py", *given)
    assert (status, stderr) == (0, "")
    (run,) = tmp_path.glob("rank_sweep_linear_teacher-*")
    summary = json.loads((run / "summary.json").read_text())
    assert [row["rank"] for row in summary["rows"]] == [1, 3, 1, 3] and summary["settings"]["seeds"] == 1
    names = {
        "config.json",
        "environment.json",
        "metrics.jsonl",
        "summary.json",
        "table.txt",
        "error_vs_rank.png",
    }
    assert {path.name for path in run.iterdir()} == names  # the saves are gone
    assert f"summary: {run / 'summary.json'}" in stdout
    status, stdout, _ = run_entry("rank_sweep.py", *given)
    assert status == 0 and "is complete" in stdout and (run / "table.txt").read_text() in stdout
