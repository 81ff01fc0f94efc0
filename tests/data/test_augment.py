"""Crop boxes against their definition, resizing against Pillow."""

import numpy as np
import pytest
from PIL import Image

from fastmim_jax.data import resize
from fastmim_jax.data.augment import center_crop, random_crop_box, resize_crop


@pytest.fixture(params=["cykooz", "Pillow"])
def resizer(request, monkeypatch):
    if request.param == "Pillow":
        monkeypatch.setattr(resize, "cykooz", None)
    elif resize.cykooz is None:
        pytest.skip("cykooz-resizer is not installed")


def picture(height, width, channels=3, low=40, high=215):
    """Squares with sharp edges and some noise, between low and high."""
    rng = np.random.default_rng(0)
    small = rng.integers(low, high, (height // 8 + 2, width // 8 + 2, channels), endpoint=True)
    big = small.repeat(8, 0).repeat(8, 1)[:height, :width]
    return (big + rng.integers(-20, 20, big.shape)).clip(low, high).astype(np.uint8)


def boxes(count, height, width, **options):
    rng = np.random.default_rng(1)
    return np.array([random_crop_box(rng, height, width, **options) for _ in range(count)])


def test_boxes_respect_area_ratio_and_borders():
    height, width = 375, 500
    left, top, w, h = boxes(3000, height, width).T
    assert (left >= 0).all() and (top >= 0).all() and (w > 0).all() and (h > 0).all()
    assert (left + w <= width).all() and (top + h <= height).all()
    # One pixel of rounding on each side.
    assert ((w - 1) / (h + 1) <= 4 / 3).all() and ((w + 1) / (h - 1) >= 3 / 4).all()
    assert ((w + 1) * (h + 1) >= 0.2 * height * width).all()
    assert (w * h / (height * width)).max() > 0.9 and (w * h / (height * width)).min() < 0.22


def test_boxes_are_spread_as_defined():
    """Area, log-ratio and position are uniform: quartiles of 4,000 draws."""
    left, top, w, h = boxes(4000, 1000, 1000, scale=(0.1, 0.5)).T  # nothing is rejected here
    share, log_ratio = w * h / 1e6, np.log(w / h) / np.log(4 / 3)
    for values, low, high in [
        (share, 0.1, 0.5),
        (log_ratio, -1, 1),
        (left / (1000 - w), 0, 1),
        (top / (1000 - h), 0, 1),
    ]:
        wanted = low + (high - low) * np.array([0.25, 0.5, 0.75])
        assert np.abs(np.quantile(values, [0.25, 0.5, 0.75]) - wanted).max() < 0.04 * (high - low)


@pytest.mark.parametrize(
    "height, width, expected",
    [
        (40, 12000, ((12000 - 53) // 2, 0, 53, 40)),  # 40 * 4/3 = 53.3 wide
        (12000, 30, (0, (12000 - 40) // 2, 30, 40)),  # 30 / (3/4) = 40 high
        (1, 1, (0, 0, 1, 1)),
    ],
)
def test_fallback_is_the_central_crop(height, width, expected):
    assert {tuple(box) for box in boxes(20, height, width).tolist()} == {expected}


def test_full_scale_of_a_square_is_the_image():
    assert (boxes(5, 64, 64, scale=(1, 1), ratio=(1, 1)) == (0, 0, 64, 64)).all()


@pytest.mark.usefixtures("resizer")
@pytest.mark.parametrize(
    "shape, box, size",
    [
        ((375, 500), (40, 30, 300, 280), (128, 128)),
        ((375, 500), (0, 0, 500, 375), (64, 96)),
        ((60, 80), (11, 7, 20, 30), (128, 128)),  # enlarged
        ((40, 12000), (5000, 0, 53, 40), (32, 32)),
        ((1, 1), (0, 0, 1, 1), (16, 16)),
    ],
)
def test_resize_equals_pillow(shape, box, size):
    image = picture(*shape)
    left, top, width, height = box
    cut = Image.fromarray(image).crop((left, top, left + width, top + height))
    expected = np.asarray(cut.resize(size[::-1], Image.Resampling.BICUBIC))
    result = resize_crop(image, box, size)
    assert result.dtype == np.uint8 and result.shape == (*size, 3)
    assert np.abs(result.astype(int) - expected).max() <= 2


@pytest.mark.usefixtures("resizer")
def test_resize_of_black_and_white_edges():
    """Overshoot is clipped between the two passes, whose order differs: rarely, but visibly."""
    image = picture(375, 500, low=0, high=255)
    expected = Image.fromarray(image).resize((128, 128), Image.Resampling.BICUBIC)
    error = np.abs(resize_crop(image, (0, 0, 500, 375), (128, 128)) - np.asarray(expected, int))
    assert error.mean() < 0.3 and (error > 1).mean() < 0.02 and error.max() <= 20


@pytest.mark.usefixtures("resizer")
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 13])
def test_each_channel_is_resized_alone(channels):
    image = picture(90, 70, channels)
    box, size = (5, 8, 50, 60), (24, 32)
    result = resize_crop(image, box, size)
    assert result.shape == (*size, channels)
    assert result.flags.c_contiguous and result.flags.writeable
    for channel in range(channels):
        plane = Image.fromarray(np.ascontiguousarray(image[8:68, 5:55, channel]))
        expected = np.asarray(plane.resize((32, 24), Image.Resampling.BICUBIC))
        assert np.abs(result[..., channel].astype(int) - expected).max() <= 2


@pytest.mark.usefixtures("resizer")
def test_pixels_outside_the_box_have_no_influence():
    image = picture(100, 100)
    inside = resize_crop(image, (30, 20, 40, 50), (16, 16))
    other = np.full_like(image, 255)
    other[20:70, 30:70] = image[20:70, 30:70]
    assert (resize_crop(other, (30, 20, 40, 50), (16, 16)) == inside).all()


@pytest.mark.usefixtures("resizer")
@pytest.mark.parametrize("shape", [(375, 500), (500, 375), (300, 300)])
def test_center_crop_equals_resize_then_cut(shape):
    image = picture(*shape)
    height, width = shape
    new_h, new_w = (256, int(256 * width / height)) if height <= width else (int(256 * height / width), 256)
    resized = np.asarray(Image.fromarray(image).resize((new_w, new_h), Image.Resampling.BICUBIC))
    top, left = round((new_h - 224) / 2), round((new_w - 224) / 2)
    expected = resized[top : top + 224, left : left + 224].astype(int)
    assert np.abs(center_crop(image, (224, 224)) - expected).max() <= 2
    assert np.abs(center_crop(image, (224, 224), resize=256) - expected).max() <= 2


@pytest.mark.usefixtures("resizer")
@pytest.mark.parametrize("shape", [(1, 1), (40, 12000), (12000, 40), (33, 77)])
@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
def test_center_crop_takes_any_shape(shape, size):
    assert center_crop(picture(*shape), size).shape == (*size, 3)
    assert center_crop(picture(*shape), size, resize=min(size)).shape == (*size, 3)


def test_center_crop_refuses_a_small_resize():
    with pytest.raises(ValueError, match="smaller"):
        center_crop(picture(50, 50), (32, 32), resize=31)


@pytest.mark.parametrize("end", ["first", "last"])
@pytest.mark.parametrize("axis", [0, 1])
def test_boxes_that_end_at_the_center_of_a_pixel(end, axis):
    """cykooz-resizer 4.0.1 drops the weights of 0 there, and read rows outside of its memory."""
    y, x = np.mgrid[:14, :7].astype(np.float32)
    image = (0.3 + 0.01 * y + 0.02 * x)[..., None]
    scale = 7 / 11
    start = 4.5 - scale / 2 if end == "first" else 10.5 - 7 + scale / 2
    box, centers = (0, start, 7, 7), start + (np.arange(11) + 0.5) * scale
    expected = 0.3 + 0.01 * (centers - 0.5)[:, None] + 0.02 * ((np.arange(11) + 0.5) * scale - 0.5)
    found = np.empty((11, 11, 1), np.float32)
    if axis:
        resize.resample(image.swapaxes(0, 1), (start, 0, 7, 7), found)
        found = found.swapaxes(0, 1)
    else:
        resize.resample(image, box, found)
    np.testing.assert_allclose(found[3:-3, 3:-3, 0], expected[3:-3, 3:-3], atol=2e-4)
    np.testing.assert_allclose(found[:, 3:-3, 0], expected[:, 3:-3], atol=2e-4)
