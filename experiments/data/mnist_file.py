"""MNIST as one file, mnist.npz, with the arrays that Keras's has: for machines without TensorFlow Datasets or a network.

python -m experiments.data.mnist_file mnist.npz     # writes what --data_dir=mnist.npz reads, from whatever MNIST is here

Letters: N images.
"""

import io
import sys
import zipfile
import zlib
from collections.abc import Mapping

import numpy as np
from etils import epath

from experiments.common.errors import UserError
from lora_jax.errors import first_line

Images = tuple[np.ndarray, np.ndarray]  # uint8 [N, 28, 28], int32 [N] in 0..9
NAMES = ("x_train", "y_train", "x_test", "y_test")


def is_file(data_dir: str | None) -> bool:
    """Whether --data_dir names such a file and no folder."""
    return data_dir is not None and str(data_dir).endswith(".npz")


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
        zipfile.ZipFile(content).testzip()  # numpy would also take an array by itself, or a pickle
        content.seek(0)
        with np.load(content, allow_pickle=False) as found:
            arrays = {name: found[name] for name in NAMES if name in found}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"--data_dir={path} cannot be read ({type(error).__name__}: {first_line(error)}).") from error
    return _checked(path, arrays, "train"), _checked(path, arrays, "test")


def _checked(path: str, arrays: Mapping[str, np.ndarray], split: str) -> Images:
    images, labels = arrays.get(f"x_{split}"), arrays.get(f"y_{split}")
    if images is None or labels is None:
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


def write(path: str, train: Images, test: Images) -> None:
    """The file that `read` reads."""
    with epath.Path(path).open("wb") as file:
        np.savez_compressed(file, **dict(zip(NAMES, (*train, *test), strict=True)))


if __name__ == "__main__":
    from experiments.data import mnist

    images = mnist.raw(None)
    write(sys.argv[1], images.train, images.test)
    print(f"{sys.argv[1]}: {images.source}")
