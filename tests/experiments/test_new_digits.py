"""S3: do its jobs find each other's files, does replay replay, and does a damaged file cost only itself?"""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from experiments.common.recording import RunFolder
from experiments.data import mnist
from experiments.new_digits import jobs as new_digits_jobs
from experiments.new_digits import study as new_digits
from experiments.new_digits.study import LATER, STUDY, Recipe, Settings
from lora_jax import checkpoint, report
from tests.bucket import unfinished

TINY = Settings(hidden=(16,), base_epochs=6, batch_size=16, seeds=2, epoch_share=3.0)
ENTRY, PRESET = "mnist_new_digits.py", "--preset=smoke"

RECIPES = (STUDY, Recipe("replay 2, all layers", "curve", replay=2.0))

pytestmark = pytest.mark.usefixtures("quick_compile")


@pytest.fixture
def tiny(monkeypatch, small_mnist):
    monkeypatch.setitem(new_digits.PRESETS, "smoke", TINY)
    monkeypatch.setattr(new_digits, "recipes", lambda settings: RECIPES)
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
        patch.setattr(new_digits, "recipes", lambda settings: RECIPES)
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


def test_each_epoch_holds_all_new_images_and_a_fresh_draw_of_old_ones(small_mnist):
    recipe = Recipe("some", "curve", replay=0.5, epochs=5)
    settings = dataclasses.replace(TINY, epoch_share=0.4)
    order, blocks = new_digits._batches(settings, recipe, small_mnist.train)
    assert blocks == 2  # 5 epochs x 0.4
    labels = small_mnist.train.y
    epochs = [np.asarray(order(block)) for block in range(2)]
    assert epochs[0].shape == (2, 120 // 16, 16)  # 80 new images and 40 old ones
    for epoch in epochs:
        assert all(len(set(member.ravel())) == member.size for member in epoch)
        assert (np.isin(labels[epoch], (8, 9)).sum(axis=(1, 2)) >= 80 - 120 % 16).all()
    old = [set(epoch[0].ravel()[~np.isin(labels[epoch[0].ravel()], (8, 9))]) for epoch in epochs]
    assert old[0] != old[1]
    assert not np.array_equal(epochs[0][0], epochs[0][1])  # each seed has its own


def test_without_replay_there_is_no_old_image(small_mnist):
    order, _ = new_digits._batches(TINY, new_digits.STUDY, small_mnist.train)
    assert set(small_mnist.train.y[np.asarray(order(0)).ravel()]) == {8, 9}


def test_the_summary(complete):
    summary = json.loads((run_of(complete) / "summary.json").read_text())
    base, rows = summary["base"], {row["name"]: row for row in summary["rows"]}
    assert base["new"]["mean"] == 0 and base["old"]["mean"] > 0.7
    assert base["training_images"] == 8 * 40
    assert all(row["adapter_off_equals_base"] for row in rows.values()) and summary["base_unchanged"]
    alone, replayed = rows["8-9 alone, as the study"], rows["replay 2, all layers"]
    assert alone["new"]["mean"] > 0 and replayed["old"]["mean"] > alone["old"]["mean"]
    assert alone["parameters"] == 16 * (784 + 16 + 16 + 10)
    for row in rows.values():
        shares = 0.8 * row["old"]["mean"] + 0.2 * row["new"]["mean"]
        assert row["overall"]["mean"] == pytest.approx(shares)
        assert row["followed_errors_by_class"][0] == base["errors_by_class"]


def test_the_choice_is_the_least_replay_that_passes():
    def row(name, replay, old, overall):
        scores = {"old": {"mean": old}, "new": {"mean": 0.99}, "overall": {"mean": overall}}
        return {"name": name, "recipe": {"replay": replay}, **scores}

    rows = [row("none", 0.0, 0.1, 0.3), row("much", 4.0, 0.99, 0.99), row("some", 0.8, 0.98, 0.98)]
    assert new_digits_jobs.choose(rows) == "some"
    assert new_digits_jobs.choose([rows[0], row("near", 0.8, 0.97, 0.98)]) == "near"


@pytest.mark.parametrize(("recipe", "parameters"), [(STUDY, 41_376), (LATER, 8 * (128 + 10))])
def test_recipes_have_the_parameters_that_the_study_says(recipe, parameters):
    model = new_digits.wrapped(Settings(), recipe)
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.ones((1, 784)))["params"])
    assert report(jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), params)).adapter == parameters


def test_every_recipe_has_its_own_name_and_folder():
    recipes = new_digits.recipes(Settings())
    assert recipes[:2] == [STUDY, LATER] and [r.replay for r in recipes if r.kind == "curve"] == list(
        Settings().replays
    )
    assert len({"".join(c if c.isalnum() else "_" for c in r.name) for r in recipes}) == len(recipes)


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
    next(run.glob("recipes/replay*")).unlink()
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
