"""Image files of a user's own digits, brought into MNIST's form."""

import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import Image, UnidentifiedImageError

from experiments.common.errors import UserError

SIDE, INNER = 28, 20  # MNIST centres a 20 x 20 digit by its mass in 28 x 28


def read(paths: Sequence[str]) -> np.ndarray:
    """uint8 [N, 28, 28], white on black. Raises UserError for a file that is missing or not an image."""
    return np.stack([_digit(_open(pathlib.Path(path))) for path in paths])


def _open(path: pathlib.Path) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("L"))
    except FileNotFoundError:
        raise UserError(f"--images: there is no file {path}.") from None
    except (UnidentifiedImageError, OSError, ValueError) as error:
        raise UserError(
            f"--images: {path} cannot be read as an image (PNG, JPEG ...): {type(error).__name__}."
        ) from None


def _digit(pixels: np.ndarray) -> np.ndarray:
    """A 28 x 28 image passes unchanged but for its polarity; any other is cropped, scaled and centred."""
    light = pixels if _is_dark(pixels) else 255 - pixels
    if light.shape == (SIDE, SIDE):
        return light
    rows, columns = np.nonzero(light > light.max() // 4 + 1)
    if len(rows) == 0:
        return np.zeros((SIDE, SIDE), np.uint8)
    crop = Image.fromarray(light[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1])
    factor = INNER / max(crop.size)
    size = tuple(max(1, round(factor * side)) for side in crop.size)
    return _centred(np.asarray(crop.resize(size, Image.Resampling.LANCZOS)))


def _is_dark(pixels: np.ndarray) -> bool:
    """Whether the border, taken for the background, is darker than mid-grey."""
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    return float(np.median(border)) < 128


def _centred(digit: np.ndarray) -> np.ndarray:
    """The digit on a black 28 x 28 field, its centre of mass in the middle as far as it fits."""
    canvas = np.zeros((SIDE, SIDE), np.uint8)
    weights = digit.astype(float) + 1e-9
    offsets = []
    for axis, length in enumerate(digit.shape):
        mass = np.average(np.arange(length), weights=weights.sum(axis=1 - axis))
        offsets.append(int(np.clip(round(SIDE / 2 - 0.5 - mass), 0, SIDE - length)))
    top, left = offsets
    canvas[top : top + digit.shape[0], left : left + digit.shape[1]] = digit
    return canvas
