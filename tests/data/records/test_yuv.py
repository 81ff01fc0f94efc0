"""YCbCr 4:2:0 as libjpeg has it."""

import io

import numpy as np
import pytest
from PIL import Image

from fastmim_jax.data.records.yuv import chroma_shape, from_rgb, rgb_planes, to_rgb, yuv_planes


def photo(size):
    from skimage import data

    return np.array(Image.fromarray(data.chelsea()).resize(size[::-1]))


def psnr(a, b):
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))


def test_conversion_is_its_own_inverse():
    rgb = np.random.default_rng(0).random((3, 50)) * 255
    assert np.allclose(rgb_planes(*yuv_planes(*rgb)), rgb, atol=1e-4)


def test_primaries_are_those_of_jfif():
    assert np.allclose(yuv_planes(255.0, 0.0, 0.0), (76.245, 84.972, 255.5), atol=1e-2)
    assert np.allclose(yuv_planes(0.0, 0.0, 255.0), (29.07, 255.5, 107.265), atol=1e-2)


@pytest.mark.parametrize("size", [(96, 128), (95, 127), (1, 9)])
def test_planes_are_close_to_a_jpeg_of_the_best_quality(size):
    image = photo(size)
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=100, subsampling="4:2:0")
    planes = from_rgb(image)
    assert planes.shape == image.shape and planes.u.shape == planes.v.shape == chroma_shape(*size)
    assert psnr(to_rgb(planes), np.asarray(Image.open(file))) > 47


def test_gray_images_stay_gray():
    gray = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    assert np.array_equal(to_rgb(from_rgb(gray)), gray)
