"""Anybody's arrays in the rank sweep: learned from as they are, or refused by one sentence."""

import json
import pickle

import numpy as np
import pytest

from experiments.common.errors import UserError
from experiments.rank import settings as rank_settings
from experiments.rank.arrays_file import read
from experiments.rank.task import of_mnist

ENTRY, PRESET = "rank_sweep.py", "--preset=smoke"
RNG = np.random.default_rng(0)
Y = np.repeat(["ant", "bee", "cat"], 40)
X = RNG.normal(size=(120, 2, 3)) + 4 * np.arange(3).repeat(40)[:, None, None]


def saved(tmp_path, **arrays) -> str:
    np.savez(tmp_path / "mine.npz", **arrays)
    return str(tmp_path / "mine.npz")


def refusal(run_entry, path, *given: str) -> str:
    """The one sentence that the entry says."""
    status, _, stderr = run_entry(ENTRY, PRESET, f"--data={path}", "--new_classes=cat", *given)
    assert status == 2 and stderr.count("\n") == 1 and stderr.endswith(".\n"), stderr
    return stderr


def test_examples_are_flattened_and_split_class_by_class(tmp_path):
    task = read(saved(tmp_path, x=X, y=Y), new=["bee"])
    assert task.classes == ("ant", "bee", "cat") and (task.old, task.new) == ((0, 2), (1,))
    assert task.train.x.shape == (96, 6) and task.test.x.shape == (24, 6) and task.train.x.dtype == np.float32
    assert np.bincount(task.test.y).tolist() == [8, 8, 8]
    assert abs(task.train.x.mean()) < 1e-6 and abs(task.train.x.std() - 1) < 1e-6  # images as a whole


def test_the_split_is_a_partition(tmp_path):
    x = np.arange(240.0).reshape(120, 2)
    task = read(saved(tmp_path, x=x, y=Y), new=["bee"])
    both = np.concatenate([task.train.x, task.test.x])[:, 0]
    assert len(np.unique(both)) == 120
    np.testing.assert_allclose(task.train.x.std(axis=0), 1, rtol=1e-5)  # a table column by column


def test_a_test_set_of_its_own_is_taken(tmp_path):
    task = read(saved(tmp_path, x=X, y=Y, x_test=X[::2] + 1, y_test=Y[::2]), old=["ant"])
    assert len(task.train.y) == 120 and len(task.test.y) == 60 and task.new == (1, 2)
    np.testing.assert_allclose(task.test.x, task.train.x[::2] + 1 / X.std(), rtol=1e-4)


def test_integer_labels_are_sorted_as_numbers_and_classes_that_are_not_named_are_left_out(tmp_path):
    y = np.repeat([10, 9, -1], 40)
    task = read(saved(tmp_path, x=X, y=y), old=["10"], new=["-1"])
    assert task.classes == ("-1", "10") and (task.old, task.new) == ((1,), (0,))
    assert len(task.train.y) == 64 and set(task.train.y) == {0, 1}
    assert read(saved(tmp_path, x=X, y=y), new=["9"]).classes == ("-1", "9", "10")


def test_bytes_are_names_and_a_constant_column_says_nothing(tmp_path):
    x = np.concatenate([X.reshape(120, 6), np.full((120, 1), 7.0)], axis=1)
    task = read(saved(tmp_path, x=x, y=Y.astype("S")), new=["cat"])
    assert task.classes[0] == "ant" and not task.train.x[:, -1].any() and np.isfinite(task.test.x).all()


def test_another_choice_of_classes_is_another_run(tmp_path, small_mnist):
    path = saved(tmp_path, x=X, y=Y)
    assert len({read(path, new=[name]).checksum for name in ("ant", "bee", "cat")}) == 3
    assert of_mnist(small_mnist).checksum == of_mnist(small_mnist, new=["8", "9"]).checksum
    assert of_mnist(small_mnist).checksum != of_mnist(small_mnist, new=["7", "9"]).checksum


def test_the_sweep_of_a_file(run_entry, tmp_path, monkeypatch, quick_compile):
    monkeypatch.setattr(rank_settings, "HIDDEN", (8,))
    path = saved(tmp_path, x=X.repeat(3, axis=0), y=Y.repeat(3))
    status, stdout, stderr = run_entry(
        ENTRY, PRESET, f"--data={path}", "--new_classes=cat", f"--workdir={tmp_path}/runs"
    )
    assert (status, stderr) == (0, "") and "the base learns ant, bee, and is adapted to cat too" in stdout
    (run,) = (tmp_path / "runs").glob("rank_sweep_data-*")
    summary = json.loads((run / "summary.json").read_text())
    assert summary["data"]["old"] == ["ant", "bee"] and summary["items"] == {"old": 48, "new": 24}
    assert {path.name for path in run.glob("*.png")} == {"accuracy_vs_rank.png", "rates.png"}


NAN = X.copy()
NAN[3, 1, 2] = np.nan
BAD = {
    "no x": ({"y": Y}, "there is no array x; it takes x and y"),
    "no y": ({"x": X}, "there is no array y"),
    "flat": ({"x": X[:, 0, 0], "y": Y}, "x is float64[120]; expected numbers [N, ...]"),
    "words": ({"x": np.full((120, 2), "a"), "y": Y}, "x is <U1[120, 2]; expected numbers"),
    "complex": ({"x": X + 1j, "y": Y}, "x is complex128[120, 2, 3]; expected numbers"),
    "empty": ({"x": X[:0], "y": Y[:0]}, "x is float64[0, 2, 3]"),
    "no features": ({"x": np.ones((120, 0)), "y": Y}, "x is float64[120, 0]"),
    "lengths": ({"x": X, "y": Y[:-1]}, "y is <U3[119]; expected 120 integers or strings"),
    "matrix of labels": ({"x": X, "y": np.eye(3)[np.arange(120) % 3]}, "y is float64[120, 3]; expected 120 integers or strings"),
    "numbers for labels": ({"x": X, "y": np.ones(120)}, "y is float64[120]; expected 120 integers or strings"),
    "nan": ({"x": NAN, "y": Y}, "x[3, 1, 2] is nan; expected finite numbers"),
    "beyond float32": ({"x": X * 1e300, "y": Y}, "inf; expected finite numbers"),
    "all alike": ({"x": np.ones((120, 4)), "y": Y}, "all numbers of x are 1; there is nothing to learn from"),
    "one class": ({"x": X, "y": np.full(120, "cat")}, "y has one class, 'cat'"),
    "few": ({"x": X, "y": np.where(np.arange(120) < 3, "dog", Y)}, "class 'dog' has 2 training and 1 test examples; expected 10 and 1"),
    "half a test set": ({"x": X, "y": Y, "x_test": X}, "it has one of x_test and y_test"),
    "other test examples": ({"x": X, "y": Y, "x_test": X[..., :2], "y_test": Y}, "an example of x_test is [2, 2] and one of x is [2, 3]"),
    "strange test class": ({"x": X, "y": Y, "x_test": X, "y_test": np.where(np.arange(120) == 1, "dog", Y)}, "y_test has a class 'dog'"),
    "class without test": ({"x": X, "y": Y, "x_test": X[:80], "y_test": Y[:80]}, "class 'cat' has 40 training and 0 test examples"),
    "too few for a batch": ({"x": X[20:100], "y": Y[20:100]}, "a batch takes 64"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_arrays_are_refused(case, run_entry, tmp_path):
    arrays, said = BAD[case]
    assert said in refusal(run_entry, saved(tmp_path, **arrays), f"--workdir={tmp_path}")


def test_files_that_are_none(run_entry, tmp_path):
    assert "there is no such file" in refusal(run_entry, tmp_path / "none.npz")
    np.save(tmp_path / "x.npy", X)
    assert "it is no .npz file; write one with numpy.savez" in refusal(run_entry, tmp_path / "x.npy")
    (tmp_path / "p.npz").write_bytes(pickle.dumps({"x": 1}))
    assert "it is no .npz file" in refusal(run_entry, tmp_path / "p.npz")
    pickled = saved(tmp_path, x=X, y=np.array([{"a": 1}] * 120, dtype=object))
    assert "it holds pickled objects, which are not read" in refusal(run_entry, pickled)
    whole = (tmp_path / "mine.npz").read_bytes()
    damaged = bytearray(whole)
    damaged[200:400] = bytes(200)
    (tmp_path / "mine.npz").write_bytes(damaged)
    assert "cannot be read" in refusal(run_entry, pickled)


CHOICES = [
    (["--new_classes=dog"], "--new_classes: there is no class 'dog'; there are 'ant', 'bee', 'cat'"),
    (["--new_classes=cat", "--old_classes=ant,cat"], "--old_classes and --new_classes both name 'cat'"),
    (["--new_classes=cat,cat"], "'cat' is named 2 times"),
    (
        ["--new_classes=ant,bee,cat"],
        "--new_classes names every class there is, 'ant', 'bee', 'cat'; at least one must be old",
    ),
    (["--old_classes=ant,bee,cat"], "--old_classes names every class there is"),
    ([], "--new_classes is missing: which of 'ant', 'bee', 'cat' shall the base not know?"),
    (["--new_classes=cat", "--download"], "--download has no meaning with --data"),
    (["--new_classes=cat", "--task=sst2"], "--data has no meaning with --task=sst2"),
]


@pytest.mark.parametrize(("given", "said"), CHOICES)
def test_choices_that_are_none(given, said, run_entry, tmp_path):
    status, _, stderr = run_entry(ENTRY, PRESET, f"--data={saved(tmp_path, x=X, y=Y)}", *given)
    assert status == 2 and said in stderr and stderr.count("\n") == 1


def test_digits_of_mnist_are_chosen_in_the_same_way(small_mnist):
    task = of_mnist(small_mnist, old=["1", "7"], new=["4"])
    assert task.classes == ("1", "4", "7") and (task.old, task.new) == ((0, 2), (1,))
    assert len(task.train.y) == 120
    with pytest.raises(UserError, match="there is no class '11'"):
        of_mnist(small_mnist, new=["11"])
