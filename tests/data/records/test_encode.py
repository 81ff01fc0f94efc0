"""Shrinking and encoding, against Pillow."""

import io

import numpy as np
import pytest
from PIL import Image

from fastmim_jax.data.decode import decode
from fastmim_jax.data.records import encode


def photo():
    from skimage import data

    return data.chelsea()  # 300 x 451


def psnr(a, b):
    return 10 * np.log10(255**2 / max(np.mean((a.astype(float) - b) ** 2), 1e-9))


@pytest.mark.parametrize("size", [(300, 451), (451, 300), (128, 500), (100, 100)])
def test_the_short_side_is_at_most_what_was_asked_for(size):
    height, width = encode.shrunk_size(*size, 128)
    assert min(height, width) == min(128, *size)
    assert abs(height / width - size[0] / size[1]) < 0.02
    assert encode.shrunk_size(*size, 0) == size


def test_shrinking_is_that_of_pillow():
    image = photo()
    reference = Image.fromarray(image).resize((192, 128), Image.Resampling.BICUBIC)
    assert psnr(encode.shrink(image, 128), np.asarray(reference)) > 50
    wide = encode.shrink(image.astype(np.float32), 128)
    assert wide.dtype == np.float32 and psnr(wide, np.asarray(reference)) > 50
    assert encode.shrink(image, 300) is image


@pytest.mark.parametrize(("layout", "least"), [("jpeg", 35), ("yuv420", 39), ("raw", 80)])
def test_stored_photos_are_close_to_pillows(layout, least):
    image = encode.shrink(photo(), 128)
    stored = decode(encode.encode(image, layout, 90))
    assert stored.shape == image.shape and psnr(stored, image) > least


def test_gray_jpeg_has_one_component():
    gray = encode.shrink(photo(), 64)[..., :1]
    file = encode.encode(gray, "jpeg", 90)
    assert Image.open(io.BytesIO(file)).mode == "L" and psnr(decode(file, 1), gray) > 35
