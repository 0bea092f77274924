"""Does a user's picture of a digit arrive in MNIST's form, whatever file it comes in?"""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from experiments.common.errors import UserError
from experiments.new_digits import images

SIDE = 200


def drawing(mode="L", ground=255, ink=0) -> Image.Image:
    """A nine, off-centre."""
    image = Image.new(mode, (SIDE, SIDE + 40), ground)
    pen = ImageDraw.Draw(image)
    pen.ellipse([20, 30, 100, 110], outline=ink, width=18)
    pen.line([92, 70, 80, 190], fill=ink, width=18)
    return image


def sixteen_bits() -> Image.Image:
    return Image.fromarray(np.asarray(drawing()).astype(np.uint16) * 257)


def read(image: Image.Image, path) -> np.ndarray:
    image.save(path)
    (digit,) = images.read([str(path)])
    return digit


@pytest.fixture
def expected(tmp_path):
    return read(drawing(), tmp_path / "expected.png")


def test_a_large_drawing_becomes_a_centred_digit(expected):
    assert (expected.dtype, expected.shape) == (np.uint8, (28, 28))
    rows, columns = np.nonzero(expected > 64)
    assert max(np.ptp(rows), np.ptp(columns)) + 1 == 20
    weights = expected.astype(float)
    centre = [(np.indices(expected.shape)[axis] * weights).sum() / weights.sum() for axis in (0, 1)]
    assert np.allclose(centre, 13.5, atol=0.51)  # whole pixels
    assert expected[0].max() == 0 and expected.max() == 255


@pytest.mark.parametrize(
    "image",
    [
        drawing(ground=0, ink=255),
        drawing("RGBA", (0, 0, 0, 0), (0, 0, 0, 255)),
        drawing("RGBA", (0, 0, 0, 0), (255, 255, 255, 255)),
        drawing("LA", (255, 0), (0, 255)),
        drawing("RGB", (255, 255, 255), (0, 0, 0)),
        drawing("1", 1, 0),
        sixteen_bits(),
        drawing(ground=120, ink=40),
        drawing(ground=130, ink=220),
    ],
    ids=["light on dark", "black on clear", "white on clear", "grey and alpha", "rgb", "one bit", "16 bits", "dark paper", "chalk"],
)  # fmt: skip
def test_the_same_drawing_in_any_form_is_the_same_digit(image, expected, tmp_path):
    assert np.abs(read(image, tmp_path / "image.png").astype(int) - expected).max() <= 4


def test_an_image_on_its_side_is_turned_as_its_camera_says(expected, tmp_path):
    lying = drawing().transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    lying.save(tmp_path / "photo.png", exif=exif)
    assert np.array_equal(images.read([str(tmp_path / "photo.png")])[0], expected)


def test_an_image_of_mnist_passes_unchanged(small_mnist, tmp_path):
    pixels = np.uint8(np.round((small_mnist.test.x[7] * 0.3081 + 0.1307) * 255)).reshape(28, 28)
    assert np.array_equal(read(Image.fromarray(pixels), tmp_path / "seven.png"), pixels)
    assert np.array_equal(read(Image.fromarray(255 - pixels), tmp_path / "inverted.png"), pixels)


def test_a_few_pixels_are_an_image_too(tmp_path):
    assert read(Image.fromarray(np.uint8([[0, 255]])), tmp_path / "two.png").shape == (28, 28)


def test_an_image_in_a_bucket(expected, bucket):
    drawing().save(bucket / "nine.png")
    assert np.array_equal(images.read(["gs://bucket/nine.png"])[0], expected)
    (bucket / "nine.png").write_text("nine\n")
    with pytest.raises(UserError, match=r"^--images: gs://bucket/nine.png cannot be read as an image"):
        images.read(["gs://bucket/nine.png"])


def half(path) -> None:
    drawing().save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


BAD = {
    "missing": (lambda path: None, "there is no file"),
    "a folder": (lambda path: path.mkdir(), "there is no file"),
    "empty": (lambda path: path.touch(), "cannot be read as an image"),
    "text": (lambda path: path.write_text("nine\n"), "cannot be read as an image"),
    "half": (half, "cannot be read as an image"),
    "one pixel": (lambda path: Image.new("L", (1, 1)).save(path), "shows no digit"),
    "black": (lambda path: Image.new("L", (300, 300)).save(path), "shows no digit"),
    "clear": (lambda path: Image.new("RGBA", (30, 30)).save(path), "shows no digit"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_digit_is_refused_by_name(case, tmp_path):
    make, reason = BAD[case]
    path = tmp_path / "bad.png"
    make(path)
    with pytest.raises(UserError) as caught:
        images.read([str(path)])
    assert reason in str(caught.value) and str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("limit", [30_000, 10_000])  # above it Pillow warns, above twice it raises
def test_a_huge_image_is_refused(limit, monkeypatch, tmp_path):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(UserError, match="cannot be read as an image .* exceeds limit"):
        read(drawing(), tmp_path / "huge.png")


def test_no_file_at_all():
    with pytest.raises(UserError, match="--images names no file"):
        images.read([])
