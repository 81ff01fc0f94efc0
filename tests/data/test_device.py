"""Normalisation on the device against plain numpy."""

import jax
import numpy as np
import pytest

from fastmim_jax.data.device import channel_statistics, normalize


@pytest.mark.parametrize("channels", [1, 3, 13])
def test_normalize(channels):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 6, 8, channels), np.uint8)
    flip = np.array([True, False, True, False])
    mean, std = channel_statistics(channels)
    assert len(mean) == len(std) == channels
    expected = images.astype(np.float64)
    expected[[0, 2]] = expected[[0, 2], :, ::-1]
    expected = (expected / 255 - np.array(mean)) / np.array(std)
    result = normalize(images, flip, mean, std)
    assert result.dtype == np.float32 and result.shape == images.shape
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-6 * 6)


def test_normalize_inside_jit_stays_float32():
    images = np.zeros((2, 4, 4, 3), np.uint8)
    step = jax.jit(lambda x, f: normalize(x, f, *channel_statistics(3)).sum())
    assert step(images, np.zeros(2, bool)).dtype == np.float32


def test_statistics():
    assert channel_statistics(3) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert channel_statistics(1) == ((0.449,), (0.226,))
    assert channel_statistics(2) == ((0.5, 0.5), (0.25, 0.25))
