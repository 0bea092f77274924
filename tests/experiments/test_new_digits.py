"""S3: do its jobs find each other's files, does replay replay, and does a damaged file cost only itself?"""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from experiments.common.items import unpacked
from experiments.common.recording import RunFolder
from experiments.common.statistics import estimate
from experiments.data import mnist
from experiments.new_digits import jobs as new_digits_jobs
from experiments.new_digits import modular, recipes, tuning
from experiments.new_digits import study as new_digits
from experiments.new_digits.equal_gain import at_equal_gain
from experiments.new_digits.first_epoch import measured_at
from experiments.new_digits.recipes import LATER, STUDY, Recipe, named, tried
from experiments.new_digits.settings import Settings
from lora_jax import checkpoint, report
from tests.bucket import unfinished

TINY = Settings(
    hidden=(16,), base_epochs=6, batch_size=16, seeds=2, held_out=60, rates=(3e-3,), replays=(2.0,), kept=(), most_steps=120,
    epoch_share=3.0,
)  # fmt: skip
ENTRY, PRESET = "mnist_new_digits.py", "--preset=smoke"

pytestmark = pytest.mark.usefixtures("quick_compile")


@pytest.fixture
def tiny(monkeypatch, small_mnist):
    monkeypatch.setitem(new_digits.PRESETS, "smoke", TINY)
    monkeypatch.setattr(recipes, "FIXED", recipes.FIXED[:2])
    monkeypatch.setattr(mnist, "load", lambda *args, **kwargs: small_mnist)


@pytest.fixture(scope="module")
def complete(tmp_path_factory, small_mnist, quick_compile):
    """A workdir with a run on which --job=all has ended."""
    workdir = tmp_path_factory.mktemp("complete")
    folder = RunFolder(
        str(workdir),
        "mnist_new_digits",
        {"settings": dataclasses.asdict(TINY), "data": small_mnist.checksum, "platform": "cpu"},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipes, "FIXED", recipes.FIXED[:2])
        new_digits_jobs.pretrain(folder, TINY, small_mnist)
        folder.finish({**new_digits_jobs.finetune(folder, TINY, small_mnist), "settings": folder.config["settings"]})
    return workdir


@pytest.fixture
def workdir(complete, tmp_path):
    """A copy of it, to be damaged."""
    shutil.copytree(complete, tmp_path, dirs_exist_ok=True)
    return tmp_path


def run_of(workdir):
    (run,) = workdir.glob("mnist_new_digits-*")
    return run


def chosen_adapter(run):
    chosen = json.loads((run / "summary.json").read_text())["chosen"]
    return run / "adapters" / "".join(c if c.isalnum() else "_" for c in chosen)


def truncate(folder) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:30])


# What the study does.


def epochs_of(recipe, train, epochs=2, seeds=(0, 1)):
    order, _ = new_digits.batches(TINY, recipe, train, seeds)
    return [np.asarray(order(epoch)) for epoch in range(epochs)]


def test_each_epoch_holds_all_new_images_and_a_fresh_draw_of_old_ones(small_mnist):
    labels = small_mnist.train.y
    epochs = epochs_of(Recipe("some", "tried", replay=0.5), small_mnist.train)
    assert epochs[0].shape == (2, 120 // 16, 16)  # 80 new images and 40 old ones
    for epoch in epochs:
        assert all(len(set(member.ravel())) == member.size for member in epoch)
        assert (np.isin(labels[epoch], (8, 9)).sum(axis=(1, 2)) >= 80 - 120 % 16).all()
    old = [set(epoch[0].ravel()[~np.isin(labels[epoch[0].ravel()], (8, 9))]) for epoch in epochs]
    assert old[0] != old[1]
    assert not np.array_equal(epochs[0][0], epochs[0][1])  # each seed has its own


def test_old_images_that_are_kept_are_always_the_same(small_mnist):
    labels = small_mnist.train.y
    epochs = epochs_of(Recipe("some", "tried", replay=0.4, keeps=True), small_mnist.train, epochs=5)
    seen = {i for epoch in epochs for i in epoch[0].ravel() if labels[i] < 8}
    assert len(seen) <= 32 and not np.array_equal(epochs[0], epochs[1])


def test_without_replay_there_is_no_old_image(small_mnist):
    (epoch,) = epochs_of(STUDY, small_mnist.train, epochs=1)
    assert set(small_mnist.train.y[epoch.ravel()]) == {8, 9}


def test_held_out_images_are_nobody_s_to_learn_from(small_mnist):
    parts = new_digits.splits(TINY, small_mnist)
    train, validation = ({image.tobytes() for image in part.x} for part in (parts.train, parts.validation))
    assert len(validation) == 60 and not train & validation
    for part in (parts.validation, parts.test):
        assert (np.diff(np.isin(part.y, (8, 9)).astype(int)) >= 0).all()  # old digits first


def test_the_summary(complete):
    summary = json.loads((run_of(complete) / "summary.json").read_text())
    base, rows = summary["base"], {row["kind"]: row for row in [*summary["rows"], *summary["modular"]]}
    assert list(rows) == ["study", "full alone", "least", "full, replayed", "oracle", "confidence"]
    assert base["new"]["mean"] == 0 and base["old"]["mean"] > 0.7
    for row in (base, *rows.values()):
        assert all(row[group] == estimate(values) for group, values in row["by_seed"].items())
        right = unpacked(row["right"], 200)
        parts = {"old": right[:, :160], "new": right[:, 160:], "overall": right}
        assert row["by_seed"] == {group: part.mean(axis=1).tolist() for group, part in parts.items()}
    adapters = [row for row in rows.values() if row.get("recipe", {}).get("method") == "LoRA"]
    assert len(adapters) == 2 and all(row["adapter_off_equals_base"] for row in adapters) and summary["base_unchanged"]
    alone, replayed = rows["study"], rows["least"]
    assert alone["new"]["mean"] > 0 and replayed["old"]["mean"] > alone["old"]["mean"]
    assert (
        alone["parameters"] == 16 * (784 + 16 + 16 + 10)
        and rows["full alone"]["parameters"] == 784 * 16 + 16 + 160 + 10
    )
    assert alone["recipe"]["epochs"] == 15  # 5 x 3
    assert [curve["name"] for curve in summary["first_epoch"]] == [row["name"] for row in summary["rows"]]
    for curve in summary["first_epoch"]:
        assert np.shape(curve["old"]) == (len(curve["batches"]), 2)
        assert curve["old"][0] == summary["first_epoch"][0]["old"][0]  # before training all are the base
    assert summary["items"] == {"old": 160, "new": 40} and summary["chosen"] == replayed["name"]


def test_modular_use_is_the_base_on_old_digits_and_the_adapter_on_new_ones(complete):
    summary = json.loads((run_of(complete) / "summary.json").read_text())
    oracle, confidence = summary["modular"]
    alone = summary["rows"][0]
    assert oracle["by_seed"]["old"] == summary["base"]["by_seed"]["old"]
    assert oracle["by_seed"]["new"] == alone["by_seed"]["new"]
    assert len(confidence["thresholds"]) == 2 and confidence["overall"]["mean"] <= oracle["overall"]["mean"]


def test_the_threshold_is_the_one_that_most_images_want():
    rng = np.random.default_rng(0)
    surer, on, off = rng.normal(size=40), rng.integers(0, 2, 40), rng.integers(0, 2, 40)
    found = modular.threshold(surer, on, off)
    right = [np.where(surer > bar, on, off).sum() for bar in [-9, *np.sort(surer), 9]]
    assert np.where(surer > found, on, off).sum() == max(right)


def line(
    replay: float, old: float, keeps: bool = False, new: float = 0.99, rate: float = 1e-3, method: str = "LoRA"
) -> dict:
    """One replay's curve, best after two epochs."""
    of_old, of_all = ([[start], [old - 0.02], [old], [old - 0.01]] for start in (0.9, 0.7))
    curve = {"old": of_old, "new": [[0.0], [new], [new], [new]], "overall": of_all}
    return {"recipe": dataclasses.asdict(tried(method, replay, keeps, rate, 3)), "validation": curve}


def test_the_least_replay_that_passes_is_chosen_at_the_rate_and_epoch_with_the_most_room():
    grid = [
        line(4.0, 0.995),
        line(0.8, 0.985, rate=3e-3),
        line(0.8, 0.981),
        line(0.1, 0.97),
        line(0.4, 0.985, keeps=True),
        line(1.6, 0.99, keeps=True),
    ]
    full = [line(0.8, old, rate=rate, method="full") for old, rate in ((0.98, 1e-3), (0.99, 3e-4), (0.97, 1e-4))]
    least, kept, full = tuning.chosen({"grid": grid, "full": full})
    assert (least.name, least.epochs, least.replay, least.learning_rate) == ("LoRA, replay 0.8, 2 epochs", 2, 0.8, 3e-3)
    assert (kept.name, kept.keeps) == ("LoRA, replay 0.4 of the same images, 2 epochs", True)
    assert (full.method, full.replay, full.epochs, full.learning_rate) == ("full", 0.8, 2, 3e-4)


def test_where_none_passes_the_one_that_comes_closest_is_chosen():
    grid = [line(0.1, 0.9), line(0.8, 0.979), line(0.8, 0.97, rate=3e-3), line(4.0, 0.99, new=0.9)]
    least = tuning.chosen({"grid": grid, "full": [line(0.8, 0.9, method="full")]})[0]
    assert (least.replay, least.learning_rate) == (0.8, 1e-3)


def test_forgetting_at_equal_gain_is_interpolated_and_may_never_come():
    curve = {"new": [[0.0, 0.0], [0.85, 0.2], [0.95, 0.4]], "old": [[1.0, 1.0], [0.8, 0.9], [0.6, 0.8]]}
    assert at_equal_gain(curve, 0.9) == [0.7, None]


def test_the_first_batches_are_measured_one_by_one():
    assert measured_at(3, 32, 8) == [0, 1, 2, 3]
    assert measured_at(50, 32, 8) == [*range(33), 40, 48, 50]


@pytest.mark.parametrize(("recipe", "parameters"), [(STUDY, 41_376), (LATER, 8 * (128 + 10))])
def test_recipes_have_the_parameters_that_the_study_says(recipe, parameters):
    model = new_digits.wrapped(Settings(), recipe)
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.ones((1, 784)))["params"])
    assert report(jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), params)).adapter == parameters


def test_every_recipe_has_its_own_name_and_folder():
    chosen = [
        named(tried(*of, 1e-3, 9), "x") for of in (("LoRA", 0.8, False), ("LoRA", 0.8, True), ("full", 0.8, False))
    ]
    names = [recipe.name for recipe in (*recipes.fixed(1.0), *chosen)]
    assert len({"".join(c if c.isalnum() else "_" for c in name) for name in names}) == len(names) == 7


# Its jobs.


def test_each_job_asks_for_the_one_before(run_entry, tiny, tmp_path, small_mnist):
    work = f"--workdir={tmp_path}"
    for job in ("finetune", "inference"):
        status, _, stderr = run_entry(ENTRY, PRESET, work, f"--job={job}")
        assert status == 2 and "holds no pretrained base yet; run --job=pretrain with the same flags first." in stderr
    assert run_entry(ENTRY, PRESET, work, "--job=pretrain")[0] == 0
    status, _, stderr = run_entry(ENTRY, PRESET, work, "--job=inference")
    assert status == 2 and "holds no fine-tuned adapter yet; run --job=finetune" in stderr


def test_inference_scores_and_reads_a_users_image(run_entry, tiny, workdir, small_mnist):
    pixels = np.uint8(np.round((small_mnist.test.x[0] * 0.3081 + 0.1307) * 255)).reshape(28, 28)
    Image.fromarray(pixels).save(workdir / "mine.png")
    status, stdout, _ = run_entry(
        ENTRY, PRESET, f"--workdir={workdir}", "--job=inference", f"--images={workdir / 'mine.png'}"
    )
    assert status == 0
    assert "adapter on" in stdout and "adapter off" in stdout and "mine.png: " in stdout
    said = json.loads((run_of(workdir) / "inference.json").read_text())
    assert said["off"]["new"] == 0 and said["on"]["new"] > 0
    assert len(said["predictions"]) == 1 and (run_of(workdir) / "predictions.png").exists()


def test_a_complete_run_is_not_run_again(run_entry, tiny, workdir, monkeypatch):
    monkeypatch.setattr(new_digits, "finetune", None)
    monkeypatch.setattr(new_digits, "pretrain", None)
    status, stdout, _ = run_entry(ENTRY, PRESET, f"--workdir={workdir}")
    assert status == 0 and "is complete; remove the folder to run it again" in stdout


# What is damaged, and mended as the sentence says.


def test_bases_in_a_bucket_that_were_not_finished_are_made_again(orbax_bucket, monkeypatch, small_mnist):
    made = []

    def pretrain(folder, settings, data):
        made.append({"w": jnp.full(3, float(len(made)))})
        return made[-1], {"scores": len(made)}

    monkeypatch.setattr(new_digits, "pretrain", pretrain)
    folder = RunFolder("gs://bucket/runs", "run", {"settings": {}})
    new_digits_jobs.pretrain(folder, TINY, small_mnist)
    (saved,) = orbax_bucket.glob("runs/*/bases/0")
    unfinished(saved)
    for _ in range(2):  # the second finds them whole
        new_digits_jobs.pretrain(folder, TINY, small_mnist)
    assert len(made) == 2
    restored = checkpoint.restore_state(folder.path / "bases", made[0], {}, None, run=folder.run)
    assert np.array_equal(restored["w"], made[1]["w"])


def test_damaged_bases(run_entry, tiny, workdir):
    run = run_of(workdir)
    before = json.loads((run / "summary.json").read_text())
    next(run.glob("recipes/LoRA*")).unlink()
    (run / "summary.json").unlink()
    truncate(run / "bases" / "0")
    status, _, stderr = run_entry(ENTRY, PRESET, f"--workdir={workdir}", "--job=finetune")
    assert status == 2 and stderr.count("\n") == 1
    assert "bases/0 is damaged" in stderr and f"remove {run / 'bases'} and run --job=pretrain" in stderr
    shutil.rmtree(run / "bases")
    assert run_entry(ENTRY, PRESET, f"--workdir={workdir}", "--job=pretrain")[0] == 0
    assert run_entry(ENTRY, PRESET, f"--workdir={workdir}", "--job=finetune")[0] == 0
    assert json.loads((run / "summary.json").read_text()) == before


def test_a_damaged_adapter_costs_one_recipe(run_entry, tiny, workdir, monkeypatch):
    run = run_of(workdir)
    before = json.loads((run / "summary.json").read_text())
    adapter = chosen_adapter(run)
    truncate(adapter)
    status, _, stderr = run_entry(ENTRY, PRESET, f"--workdir={workdir}", "--job=inference")
    assert status == 2 and stderr.count("\n") == 1
    assert f"remove {adapter} and {run / 'summary.json'}, then run --job=finetune" in stderr
    shutil.rmtree(adapter)
    (run / "summary.json").unlink()
    trained, finetune = [], new_digits.finetune

    def counted(*args):
        trained.append(args[2].name)
        return finetune(*args)

    monkeypatch.setattr(new_digits, "finetune", counted)
    assert run_entry(ENTRY, PRESET, f"--workdir={workdir}", "--job=finetune")[0] == 0
    assert trained == [before["chosen"]]
    assert json.loads((run / "summary.json").read_text()) == before


def test_damaged_records(run_entry, tiny, workdir):
    path = run_of(workdir) / "pretrain.json"
    path.write_text(path.read_text()[:50])
    status, _, stderr = run_entry(ENTRY, PRESET, f"--workdir={workdir}", "--job=all")
    assert status == 2 and stderr.count("\n") == 1
    assert f"{path} is damaged (cannot be read as JSON" in stderr and "remove it" in stderr
