"""Images that Python has: arrays, Pillow images, paths and lists of them."""

import numpy as np
import pytest
from PIL import Image

from fastmim_jax.api.given_images import open_images
from fastmim_jax.data.decode import read_image
from fastmim_jax.data.limits import DecodeRules
from fastmim_jax.errors import UserError

RULES = DecodeRules(dtype="uint8")


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)


def test_every_form_has_the_same_pixels(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    forms = [tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(pixels), pixels, pixels / 255]
    source = open_images(forms, 3, RULES)
    assert source.names[0].endswith("a.png") and source.names[3] == "image 3" and len(source) == 5
    for index in range(len(source)):
        np.testing.assert_array_equal(read_image(source, index, 3, RULES), pixels)
    for one in (tmp_path, tmp_path / "a.png", Image.fromarray(pixels), pixels, pixels[None]):
        np.testing.assert_array_equal(read_image(open_images(one, 3, RULES), 0, 3, RULES), pixels)


def test_pillow_images_are_turned_and_gray_ones_repeated():
    image = Image.new("L", (4, 2), 7)
    image.getexif()[0x0112] = 6
    assert read_image(open_images(image, 3, RULES), 0, 3, RULES).shape == (4, 2, 3)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "no images were given"),
        (3, "images is 3, expected a path"),
        ([None], "image 0 is None, expected a path"),
        (np.zeros(4), r"an array of shape \(4,\), expected \(n, height, width, channels\)"),
        ([np.zeros(4)], r"image 0 is an array of shape \(4,\)"),
        (["nowhere.png"], "nowhere.png does not exist"),
        ([__file__.rpartition("/")[0]], "is a folder, expected an image in a list"),
    ],
)
def test_what_is_no_image_is_named(images, message):
    with pytest.raises(UserError, match=message):
        open_images(images, 3, RULES)


def test_normalised_pixels_are_refused():
    with pytest.raises(UserError, match="image 0 has floating-point values from -1 to 1, expected 0 to 1"):
        open_images(np.linspace(-1, 1, 48).reshape(4, 4, 3), 3, RULES)[0]
