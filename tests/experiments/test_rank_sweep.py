"""Does the main job train all ranks in one program per regime and round, tune every rate off the edge, and write what it measured?"""

import dataclasses
import json

import numpy as np
import pytest

from experiments.common.errors import UserError
from experiments.common.items import unpacked
from experiments.common.recording import RunFolder
from experiments.common.statistics import estimate
from experiments.data import mnist
from experiments.linear import study as linear
from experiments.rank import settings as rank_settings
from experiments.rank import study as rank_mnist
from experiments.rank import training
from experiments.rank.claims import claims
from experiments.rank.figures import table
from experiments.rank.settings import Settings
from experiments.rank.task import of_mnist, sets
from tests.experiments.one_part import ONE_PART

TINY = Settings(
    ranks=(1, 4), head_rates=(1e-2,), lora_rates=(3.2e-3, 5.6e-3), full_rates=(1e-2,), widenings=1, seeds=2, base_epochs=6, steps=200,
    blocks=2, batch_size=16,
)  # fmt: skip
HIDDEN = (24, 12)
BASE = 784 * 24 + 24 + 24 * 12 + 12 + 12 * 10 + 10

pytestmark = pytest.mark.usefixtures("quick_compile")


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(rank_settings, "HIDDEN", HIDDEN)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    return RunFolder(str(tmp_path_factory.mktemp("rank")), "run", {"settings": {}})


@pytest.fixture(scope="module")
def summary(run_folder, small_mnist, quick_compile):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rank_settings, "HIDDEN", HIDDEN)
        found = rank_mnist.run(run_folder, TINY, of_mnist(small_mnist))
        return json.loads(json.dumps({**found, "settings": dataclasses.asdict(TINY)}, allow_nan=False))


def row(summary, regime, rank=None):
    (found,) = (row for row in summary["rows"] if (row["regime"], row["rank"]) == (regime, rank))
    return found


def test_one_trace_per_program_whatever_the_number_of_bases(summary):
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
    for line in summary["rows"]:
        wrong = line["validation_errors_by_rate"]
        assert wrong[f"{line['learning_rate']:g}"] == min(wrong.values())
        assert wrong == {rate: np.mean(each) for rate, each in line["validation_errors_by_seed"].items()}
    assert len(row(summary, "LoRA", 1)["validation_errors_by_rate"]) == 3  # two, and one beyond the better one
    assert row(summary, "full")["rate_at_edge"] is True  # widened once, and only so: of two rates each is an edge


def test_every_estimate_is_that_of_its_seeds_and_every_seed_that_of_its_items(summary):
    old = summary["items"]["old"]
    assert summary["items"] == {"old": 160, "new": 40}
    for line in [summary["base"], *summary["rows"]]:
        assert all(line[name] == estimate(values) for name, values in line["by_seed"].items())
        assert line["accuracy"]["n"] == 2
    for line in summary["rows"]:
        right = unpacked(line["right"], 200)
        assert line["by_seed"]["accuracy"] == right.mean(axis=1).tolist()
        assert line["by_seed"]["accuracy_new"] == right[:, old:].mean(axis=1).tolist()
        assert np.shape(line["followed_by_seed"]) == (2, 3)


def test_adaptation_learns_the_new_digits_from_bases_that_do_not_know_them(summary):
    assert summary["base"]["accuracy_new"]["mean"] == 0 and summary["base_unchanged"]
    assert row(summary, "full")["accuracy_new"]["mean"] > 0.3
    assert len(set(summary["base"]["by_seed"]["accuracy"])) == 2  # each seed has its own base


def test_an_interrupted_run_measures_no_base_twice(summary, run_folder, small_mnist, tiny, monkeypatch):
    monkeypatch.setattr(training.phases, "train", None)
    monkeypatch.setattr(rank_mnist, "train_bases", lambda *args, **kwargs: pytest.fail("bases are trained first"))
    place = training.Place(
        run_folder, TINY, sets(of_mnist(small_mnist), 16), rank_mnist.module(of_mnist(small_mnist)), None
    )
    found = training.regime(place, "LoRA")
    best = row(summary, "LoRA", 4)["learning_rate"]
    assert found[4, best].right.mean(axis=1).tolist() == row(summary, "LoRA", 4)["by_seed"]["accuracy"]


def test_rates_are_widened_towards_the_best_alone(monkeypatch):
    asked = []

    def one_round(place, name, wider, of_round):
        asked.append(of_round)
        wrong = {setting: abs(np.log10(setting[1]) + (4 if setting[0] == 1 else 2.9)) for setting in of_round}
        return {s: training.Outcomes(np.array([w, w]), None, None, True, 1, 1) for s, w in wrong.items()}

    monkeypatch.setattr(training, "_round", one_round)
    place = training.Place(
        None, Settings(ranks=(1, 8), lora_rates=(5.6e-4, 1e-3, 1.8e-3), widenings=9), None, None, None
    )
    found = training.regime(place, "LoRA")
    assert asked[1:] == [[(1, 3.2e-4)], [(1, 1.8e-4)], [(1, 1e-4)], [(1, 5.6e-5)]]  # rank 8 had its best inside
    wrong = training.losses(found, 1)
    assert min(wrong, key=wrong.__getitem__) == 1e-4


def test_batches_are_the_seeds_own():
    first, second = (np.asarray(training.batches(dataclasses.replace(TINY, steps=40), seed, 100)(0)) for seed in (0, 1))
    assert first.shape == (20, 16) and first.min() >= 0 and first.max() < 100
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, training.batches(dataclasses.replace(TINY, steps=40), 0, 100)(1))


def test_validation_images_are_not_trained_on(small_mnist):
    found = sets(of_mnist(small_mnist), 16)
    train, validation = (
        {image.tobytes() for image in np.asarray(part["x"])} for part in (found.train, found.validation)
    )
    assert len(validation) == 40 and not train & validation
    assert set(np.asarray(found.old["y"])) == set(range(8))
    assert (np.asarray(found.test["y"])[:160] < 8).all() and (np.asarray(found.test["y"])[160:] >= 8).all()


def test_the_table_shows_a_rate_at_the_edge(summary):
    full = next(line for line in table(summary).splitlines() if line.startswith("full"))
    assert f"{row(summary, 'full')['learning_rate']:g}*" in full and "may lie beyond" in table(summary)


# Its claims.


def made(right: dict, at_edge: bool = False) -> dict:
    """A summary whose rows got so many of 1,000 items right, on each of ten bases, give or take one item each."""

    def line(name, share):
        rng = np.random.default_rng(int(1000 * share))
        bits = np.arange(1000)[None] < 1000 * share + rng.integers(-1, 2, (10, 1))
        regime, _, rank = name.partition(" ")
        by_seed = {"accuracy": bits.mean(axis=1).tolist()}
        return {
            "regime": "head only" if regime == "head" else regime, "rank": int(rank) if rank else None, "rate_at_edge": at_edge,
            "right": rank_mnist.packed(bits), "accuracy": estimate(by_seed["accuracy"]), "by_seed": by_seed,
        }  # fmt: skip

    rows = [line(name, share) for name, share in right.items()]
    return {"rows": rows, "items": {"old": 800, "new": 200}, "settings": {"steps": 600, "batch_size": 64}}


def by_id(summary):
    return {claim.id: claim for claim in claims(summary, "command")}


def test_lora_reaches_full_only_within_the_margin():
    found = by_id(made({"head": 0.7, "LoRA 1": 0.80, "LoRA 8": 0.969, "LoRA 32": 0.97, "full": 0.97}))
    assert found["R.1"].verdict == "holds in part"
    assert [fact.true for fact in found["R.1"].facts] == [True, True, False]
    assert found["R.2"].verdict == found["R.3"].verdict == "holds"
    found = by_id(made({"head": 0.9, "LoRA 1": 0.9, "LoRA 8": 0.9, "LoRA 32": 0.9, "full": 0.97}))
    assert found["R.1"].verdict == "does not hold"
    assert found["R.2"].verdict != "holds" and found["R.3"].verdict != "holds"


def test_a_lower_rank_is_not_asked_where_a_higher_one_fell_short():
    for lower in (0.97, 0.8):  # within the margin, and far outside
        found = by_id(made({"head": 0.7, "LoRA 1": lower, "LoRA 32": 0.965, "full": 0.97}))["R.1"]
        assert [fact.true for fact in found.facts] == [None, None] and "not asked" in found.facts[1].shown


def test_a_claim_says_that_a_rate_lies_at_the_edge():
    right = {"head": 0.7, "LoRA 1": 0.97, "full": 0.97}
    assert "at the edge of what was tried for head only, r = 1, full" in by_id(made(right, at_edge=True))["R.1"].reason
    assert "every rate inside its range" in by_id(made(right))["R.1"].reason


# The entry.


def test_the_entry_hands_its_flags_on(run_entry, monkeypatch, small_mnist, tmp_path):
    seen = []

    def run(folder, settings, task):
        seen.append((settings, [task.classes[place] for place in task.new]))
        raise UserError("enough.")

    monkeypatch.setattr(rank_mnist, "run", run)
    monkeypatch.setattr(mnist, "load", lambda *args, **kwargs: small_mnist)
    given = ("--ranks=8,2", "--learning_rates=1e-2,1e-3", "--seeds=3", "--strategy=vmap", f"--workdir={tmp_path}")
    assert run_entry("rank_sweep.py", "--preset=smoke", "--new_classes=0,4", *given)[0] == 2
    rates = (1e-3, 1e-2)
    settings = dataclasses.replace(
        rank_mnist.PRESETS["smoke"], ranks=(2, 8), head_rates=rates, lora_rates=rates, full_rates=rates, widenings=0, seeds=3,
        strategy="vmap",
    )  # fmt: skip
    assert seen == [(settings, ["0", "4"])]


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
