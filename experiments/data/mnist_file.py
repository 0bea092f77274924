"""MNIST as one file, mnist.npz, with the arrays that Keras's has: for machines without TensorFlow Datasets or a network.

python -m experiments.data.mnist_file mnist.npz     # writes what --data_dir=mnist.npz reads, from whatever MNIST is here

Letters: N images.
"""

import hashlib
import io
import sys
import zipfile
from collections.abc import Mapping

import numpy as np
from etils import epath

from experiments.common.errors import UserError
from lora_jax.errors import first_line

Images = tuple[np.ndarray, np.ndarray]  # uint8 [N, 28, 28], int32 [N] in 0..9
NAMES, ENDING = ("x_train", "y_train", "x_test", "y_test"), ".npz"
DIGEST = "38fd10bd99c82ab760341e3c5cc2006dd614ccf513a7f8016c9c565c15585fdc"  # of all of MNIST, in any order


def is_file(data_dir: str | None) -> bool:
    """Whether --data_dir names such a file and no folder."""
    return data_dir is not None and str(data_dir).endswith(ENDING)


def read(path: str) -> tuple[Images, Images]:
    """Training and test images with their labels.

    Raises:
      UserError: for a file that is missing or damaged, or arrays that are not MNIST's.
    """
    file = epath.Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"--data_dir={path}: there is no such file.")
    try:
        content = io.BytesIO(file.read_bytes())
        damaged = zipfile.ZipFile(content).testzip()  # numpy would also take an array by itself, or a pickle
        if damaged is not None:
            raise ValueError(f"{damaged} in it is damaged")
        content.seek(0)
        with np.load(content, allow_pickle=False) as found:
            arrays = {name: found[name] for name in NAMES if name in found}
    except Exception as error:  # zipfile, zlib and numpy raise many kinds; each means that the file cannot be read
        raise UserError(f"--data_dir={path} cannot be read ({type(error).__name__}: {first_line(error)}).") from error
    return _checked(path, arrays, "train"), _checked(path, arrays, "test")


def _checked(path: str, arrays: Mapping[str, np.ndarray], split: str) -> Images:
    images, labels = arrays.get(f"x_{split}"), arrays.get(f"y_{split}")
    if not isinstance(images, np.ndarray) or not isinstance(labels, np.ndarray):
        raise UserError(f"--data_dir={path}: it lacks x_{split} or y_{split}; expected {', '.join(NAMES)}.")
    if images.dtype != np.uint8 or images.ndim != 3 or images.shape[1:] != (28, 28) or not len(images):
        raise UserError(
            f"--data_dir={path}: x_{split} is {images.dtype}{list(images.shape)}; expected uint8[N, 28, 28]."
        )
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() > 9:
        raise UserError(
            f"--data_dir={path}: y_{split} is {labels.dtype}{list(labels.shape)}; expected {len(images)} integers from 0 to 9."
        )
    return images, labels.astype(np.int32)


def are_all_of_mnist(train: Images, test: Images) -> bool:
    """Whether these are MNIST's 60,000 and 10,000 images, in whatever order; a data set of the same sizes is not."""
    return hashlib.sha256((_digest(train) + _digest(test)).encode()).hexdigest() == DIGEST


def _digest(images: Images) -> str:
    """Of the set of images and labels."""
    pixels, labels = images
    rows = zip(np.ascontiguousarray(pixels).reshape(len(pixels), -1), labels, strict=True)
    each = sorted(hashlib.sha256(row.tobytes() + bytes([int(label)])).digest() for row, label in rows)
    return hashlib.sha256(b"".join(each)).hexdigest()


def write(path: str, train: Images, test: Images) -> None:
    """The file that `read` reads.

    Raises:
      UserError: for another ending than .npz, or a place that cannot be written to.
    """
    if not is_file(path):
        raise UserError(f"{path}: name a file that ends in {ENDING}, by which --data_dir knows it.")
    content = io.BytesIO()
    np.savez_compressed(content, **dict(zip(NAMES, (*train, *test), strict=True)))
    try:
        epath.Path(path).expanduser().write_bytes(content.getvalue())
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error}).") from error


def main(arguments: list[str]) -> int:
    """Writes all of MNIST as one file; the exit status."""
    from experiments.data import mnist

    if len(arguments) != 1 or arguments[0].startswith("-"):
        print(
            "usage: python -m experiments.data.mnist_file mnist.npz   (MNIST is taken from $TFDS_DATA_DIR)",
            file=sys.stderr,
        )
        return 1
    try:
        images = mnist.raw(None)
        if not images.is_full:
            raise UserError(f"all of MNIST is wanted, and here are only {images.source}.")
        write(arguments[0], images.train, images.test)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{arguments[0]}: {images.source}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
