"""Augmentation of image and mask together: masks drawn into the image stay where they are."""

import numpy as np
import pytest

from fastmim_jax.data.crops import RandomOfPosition
from fastmim_jax.data.masks.augment import (
    augment_pair,
    covering_size,
    fit,
    largest_share,
    resize_mask,
    resize_short_side,
)
from fastmim_jax.data.masks.base import IGNORE


def drawn(height, width, seed=0):
    """An image that is its mask: two classes in large blocks, each of one gray value."""
    blocks = np.random.default_rng(seed).integers(0, 2, (height // 16 + 1, width // 16 + 1))
    mask = np.kron(blocks, np.ones((16, 16), int))[:height, :width].astype(np.int32)
    return np.repeat(np.uint8(mask * 200)[..., None], 3, axis=2), mask


def disagreement(image, mask):
    """Share of the pixels whose class is not that of their gray value, and the number of labels.

    Pixels right on an edge, which are neither black nor white, agree with both.
    """
    labelled, gray = mask != IGNORE, image[..., 0].astype(int)
    differs = ((gray > 100) != mask) & (abs(gray - 100) > 10)
    return differs[labelled].mean(), labelled.sum()


@pytest.mark.parametrize("shape", [(64, 64), (50, 81), (33, 20)])
@pytest.mark.parametrize("size", [(48, 48), (32, 64)])
def test_masks_stay_on_their_images(shape, size):
    image, mask = drawn(*shape)
    for position in range(20):
        pixels, classes = augment_pair(image, mask, size, RandomOfPosition(0).at(position))
        assert pixels.shape == (*size, 3) and classes.shape == size and classes.dtype == np.int32
        share, count = disagreement(pixels, classes)
        assert share < 0.005 and count >= size[0] * size[1] / 5
        assert (pixels[classes == IGNORE] == 0).all()


def test_without_resizing_they_agree_exactly():
    image, mask = drawn(64, 64)
    for position in range(20):
        pixels, classes = augment_pair(
            image, mask, (32, 32), RandomOfPosition(0).at(position), scale=(2.0, 2.0)
        )
        assert disagreement(pixels, classes) == (0, 1024)
        np.testing.assert_array_equal(np.unique(classes), [0, 1])  # no crop of one class


def test_seed_and_position_decide():
    image, mask = drawn(64, 64)
    first, again, other = (
        augment_pair(image, mask, (32, 32), RandomOfPosition(0).at(p)) for p in (3, 3, 4)
    )
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert (first[0] != other[0]).any()
    mirrored = [
        augment_pair(image, mask, (64, 64), RandomOfPosition(0).at(p), (1, 1))[1] for p in range(20)
    ]
    same = [np.array_equal(classes, mask) for classes in mirrored]
    assert 0 < sum(same) < 20
    np.testing.assert_array_equal(mirrored[same.index(False)], mask[:, ::-1])


def test_evaluation_keeps_the_ratio():
    image, mask = drawn(50, 81)
    pixels, classes = resize_short_side(image, mask, 64, multiple=16)
    assert pixels.shape == (64, 96, 3) and classes.shape == (64, 96)
    assert disagreement(pixels, classes)[0] < 0.005
    pixels, classes = fit(image, mask, (32, 48))
    assert pixels.shape == (32, 48, 3) and disagreement(pixels, classes)[0] < 0.005
    assert covering_size((50, 100), (32, 32)) == (32, 64)


def test_nearest_pixels_are_those_of_pillow():
    from PIL import Image

    mask = np.random.default_rng(0).integers(0, 255, (23, 31), np.uint8)
    for full in ((23, 31), (64, 17), (11, 90)):
        expected = np.asarray(Image.fromarray(mask).resize(full[::-1], Image.Resampling.NEAREST))
        np.testing.assert_array_equal(resize_mask(mask, full, (0, 0, *full)), expected)
        np.testing.assert_array_equal(resize_mask(mask, full, (2, 3, 5, 7)), expected[2:7, 3:10])


def test_largest_share():
    assert largest_share(np.array([[0, 0, 1, IGNORE]])) == 2 / 3
    assert largest_share(np.full((2, 2), IGNORE)) == 1
