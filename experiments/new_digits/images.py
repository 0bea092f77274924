"""Image files of a user's own digits, brought into MNIST's form."""

import warnings
from collections.abc import Sequence

import numpy as np
from etils import epath
from PIL import Image, ImageOps

from experiments.common.errors import UserError
from lora_jax.files import local

SIDE, INNER = 28, 20  # MNIST centres a 20 x 20 digit by its mass in 28 x 28


def read(paths: Sequence[str]) -> np.ndarray:
    """uint8 [N, 28, 28], white on black. Raises UserError for a file that is missing, not an image, or blank."""
    if not paths:
        raise UserError("--images names no file; give some, or leave it out for a sample of test images.")
    return np.stack([_digit(_open(epath.Path(path))) for path in paths])


def _open(path: epath.Path) -> np.ndarray:
    """uint8 [H, W], the image upright and in grey."""
    if not path.is_file():
        raise UserError(f"--images: there is no file {path}.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)  # 90 megapixels are no digit
            with local(path) as file, Image.open(file) as image:
                pixels = _grey(ImageOps.exif_transpose(image))
    except Exception as error:  # Pillow raises many kinds; each means the file cannot be read
        reason = str(error).rstrip(".") or type(error).__name__
        raise UserError(f"--images: {path} cannot be read as an image (PNG, JPEG ...): {reason}.") from error
    if pixels.min() == pixels.max():
        raise UserError(f"--images: {path} shows no digit: all its pixels are alike.")
    return pixels


def _grey(image: Image.Image) -> np.ndarray:
    if image.mode[0] in "IF":  # 16 or 32 bits a pixel, of whatever range
        pixels = np.asarray(image, np.float64)
        span = np.ptp(pixels) or 1.0
        return np.uint8((pixels - pixels.min()) / span * 255)
    if "A" in image.getbands() or "transparency" in image.info:
        return _on_ground(image.convert("RGBA"))
    return np.asarray(image.convert("L"))


def _on_ground(image: Image.Image) -> np.ndarray:
    """What is transparent becomes white, or black under a light drawing."""
    grey = np.asarray(image.convert("RGB").convert("L"), np.float64)
    opacity = np.asarray(image.getchannel("A"), np.float64) / 255
    is_light = (grey * opacity).sum() > 127.5 * opacity.sum()
    return np.uint8(np.round(grey * opacity + (0 if is_light else 255) * (1 - opacity)))


def _digit(pixels: np.ndarray) -> np.ndarray:
    """A 28 x 28 image passes unchanged but for its polarity; any other is cropped, scaled and centred."""
    light = pixels if _is_dark(pixels) else 255 - pixels
    if light.shape == (SIDE, SIDE):
        return light
    light = _without_ground(light)
    rows, columns = np.nonzero(light > light.max() // 4)
    crop = Image.fromarray(light[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1])
    factor = INNER / max(crop.size)
    size = tuple(max(1, round(factor * side)) for side in crop.size)
    return _centred(np.asarray(crop.resize(size, Image.Resampling.LANCZOS)))


def _border(pixels: np.ndarray) -> float:
    """The grey of the border, taken for the background."""
    return float(np.median(np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])))


def _is_dark(pixels: np.ndarray) -> bool:
    """Whether the background is nearer to the darkest pixel than to the lightest."""
    return 2 * _border(pixels) < float(pixels.min()) + float(pixels.max())


def _without_ground(light: np.ndarray) -> np.ndarray:
    """The grey of the background becomes black, the lightest pixel white."""
    ground = _border(light)
    above = np.clip(light - ground, 0, None)
    return np.uint8(np.round(above / above.max() * 255))


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
