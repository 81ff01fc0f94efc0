"""Photometric distortion against a definition in NumPy and colorsys."""

import colorsys

import numpy as np
import pytest

from fastmim_jax.data.crops import RandomOfPosition
from fastmim_jax.data.masks.augment import augment_pair
from fastmim_jax.data.masks.photometric import HUE, Distortion, distort, draw_distortion

IMAGE = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)


def defined(image, distortion):
    """The published steps on fractions, pixel by pixel."""
    brightness, contrast, contrast_first, saturation, hue = distortion

    def in_hsv(pixel):
        h, s, v = colorsys.rgb_to_hsv(*pixel / 255)
        return 255 * np.array(colorsys.hsv_to_rgb((h + hue / 360) % 1, min(s * saturation, 1), v))

    x = np.clip(image.astype(float) + brightness, 0, 255)
    x = np.clip(x * contrast, 0, 255) if contrast_first else x
    x = np.apply_along_axis(in_hsv, -1, x)
    return x if contrast_first else np.clip(x * contrast, 0, 255)


@pytest.mark.parametrize(
    "distortion",
    [
        Distortion(),
        Distortion(brightness=-20.5),
        Distortion(contrast=1.4),
        Distortion(brightness=30, contrast=0.6, contrast_first=False),
        Distortion(saturation=0.5),
        Distortion(saturation=1.5),
        Distortion(hue=36),
        Distortion(hue=-36),
        Distortion(-10, 1.3, True, 1.2, 20),
        Distortion(10, 0.8, False, 0.7, -9),
    ],
)
def test_it_is_as_defined(distortion):
    found, expected = distort(IMAGE, distortion), defined(IMAGE, distortion)
    assert found.dtype == np.uint8 and found.shape == IMAGE.shape
    in_hsv = distortion.saturation != 1 or distortion.hue != 0
    # A step of hue moves a channel by up to 6 values, and Pillow cuts fractions off.
    assert abs(found - expected).max() <= (10 if in_hsv else 1.01)
    assert abs(found - expected).mean() <= (1.5 if in_hsv else 0.5)


def test_gray_stays_gray_and_the_largest_hue_returns():
    gray = np.repeat(IMAGE[..., :1], 3, -1)
    np.testing.assert_array_equal(distort(gray, Distortion(saturation=1.5, hue=30)), gray)
    there_and_back = distort(distort(IMAGE, Distortion(hue=HUE)), Distortion(hue=-HUE))
    assert abs(there_and_back.astype(int) - IMAGE).mean() < 3


def test_draws():
    random = RandomOfPosition(0)
    drawn = [draw_distortion(random.at(position)) for position in range(2000)]
    for number, largest in ((0, 32), (1, 0.5), (3, 0.5), (4, 36)):
        values = np.array([one[number] for one in drawn]) - Distortion()[number]
        assert 0.45 < (values != 0).mean() < 0.55 and 0.9 * largest < abs(values).max() <= largest
        assert abs(values.mean()) < 0.05 * largest
    assert 0.45 < np.mean([one.contrast_first for one in drawn]) < 0.55
    assert drawn[7] == draw_distortion(random.at(7)) != draw_distortion(random.at(8))
    still = draw_distortion(random.at(7), strength=0)
    assert still == Distortion(contrast_first=still.contrast_first)


def test_it_changes_images_alone_and_neither_masks_nor_crops():
    image = np.kron(IMAGE, np.ones((4, 4, 1), np.uint8))
    mask = (image[..., 0] // 64).astype(np.int32)
    random, changed = RandomOfPosition(0), 0
    for position in range(8):
        pixels, classes = augment_pair(image, mask, (40, 48), random.at(position), (0.5, 0.8))
        distorted, same = augment_pair(
            image, mask, (40, 48), random.at(position), (0.5, 0.8), photometric=1.0
        )
        np.testing.assert_array_equal(same, classes)
        assert not distorted[classes < 0].any()  # padding stays black
        changed += (distorted != pixels).any()
        # The distortion is drawn last, so that crops are those of a run without it.
        undone = distort(pixels[classes >= 0][None], _drawn_after_the_crop(random, position, image, mask))
        np.testing.assert_array_equal(distorted[classes >= 0][None], undone)
    assert changed >= 6


def _drawn_after_the_crop(random, position, image, mask):
    rng = random.at(position)
    augment_pair(image, mask, (40, 48), rng, (0.5, 0.8))
    return draw_distortion(rng)
