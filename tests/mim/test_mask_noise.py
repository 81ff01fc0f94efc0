"""Coloured and coarse masking noise: spectra, counts, and what stays as it was."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastmim_jax.mim import mask_noise
from fastmim_jax.mim.mask_noise import COLORS, NARROW, WIDE, arrange_noise, gaussian_taps
from fastmim_jax.mim.masking import disjoint_noise, num_visible, random_mask

SIDE = 16
GRID = (SIDE, SIDE)
NOISE = jax.random.uniform(jax.random.key(0), (64, SIDE * SIDE))


def gain(color):
    """The factor by which the filter of a colour multiplies each frequency (SIDE, SIDE // 2 + 1)."""

    def blur(sigma):
        taps = np.array(gaussian_taps(sigma)) / 2**mask_noise.TAP_BITS
        steps = np.arange(len(taps)) - len(taps) // 2
        along = lambda cycles: np.cos(2 * np.pi * np.outer(cycles, steps)) @ taps  # noqa: E731
        return np.outer(along(np.fft.fftfreq(SIDE)), along(np.fft.rfftfreq(SIDE)))

    green = blur(NARROW) - blur(WIDE)
    return {"red": blur(WIDE), "green": green, "blue": 1 - blur(NARROW), "purple": 1 - green}[color]


@pytest.mark.slow
@pytest.mark.parametrize("color", ["red", "green", "blue", "purple"])
def test_filters_multiply_the_spectrum_as_defined(color):
    white = np.round((np.asarray(NOISE, np.float64) - 0.5) * 2**mask_noise.NOISE_BITS).reshape(-1, *GRID)
    filtered = np.asarray(COLORS[color](NOISE.reshape(-1, *GRID)), np.float64) / 4**mask_noise.TAP_BITS
    np.testing.assert_allclose(
        np.fft.rfft2(filtered), gain(color) * np.fft.rfft2(white), rtol=0, atol=1e-6 * np.abs(white).sum()
    )


@pytest.mark.slow
def test_masks_have_the_colours_of_their_noise():
    frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE))
    bands = [(0.01, 0.12), (0.15, 0.3), (0.4, 1)]  # cycles per cell

    def shares(color):
        """Share of a mask's power in the low, middle and high band."""
        mask = random_mask(arrange_noise(NOISE, GRID, color), GRID, num_visible(SIDE * SIDE, 0.75))
        power = (np.abs(np.fft.rfft2(np.asarray(mask, np.float64))) ** 2).mean(0)
        power = [power[(low < frequency) & (frequency < high)].mean() for low, high in bands]
        return np.array(power) / sum(power)

    low, middle, high = np.array([shares(x) for x in ("white", "red", "green", "blue", "purple")]).T
    white, red, green, blue, purple = range(5)
    assert np.argmax(low) == red and np.argmax(middle) == green and np.argmax(high) == blue
    assert low[blue] < low[green] < low[white] < low[purple] < low[red]
    assert middle[purple] < middle[white] and high[green] < high[white]


@pytest.mark.slow
@pytest.mark.parametrize("color", COLORS)
def test_colours_keep_the_numbers_and_mask_every_cell_equally_often(color):
    noise = jax.random.uniform(jax.random.key(1), (4000, 16))
    arranged = arrange_noise(noise, (4, 4), color)
    np.testing.assert_array_equal(np.sort(arranged, axis=1), np.sort(noise, axis=1))
    mask = np.asarray(random_mask(arranged, (4, 4), 4))
    assert (mask.sum((1, 2)) == 12).all()
    assert np.abs(mask.mean(0) - 0.75).max() < 0.03  # 4 standard deviations of 4,000 draws
    np.testing.assert_array_equal(arrange_noise(noise[7:9], (4, 4), color), arranged[7:9])


def test_white_noise_stays_the_same_array():
    assert arrange_noise(NOISE, GRID) is NOISE


@pytest.mark.slow
@pytest.mark.parametrize("color", ["white", "green"])
def test_squares_of_the_mask_grid_are_masked_as_a_whole(color):
    arranged = arrange_noise(NOISE, GRID, color, 4)
    np.testing.assert_array_equal(np.sort(arranged, axis=1), np.sort(NOISE, axis=1))
    mask = np.asarray(random_mask(arranged, GRID, 4 * 16)).reshape(-1, 4, 4, 4, 4)
    assert (mask == mask[:, :, :1, :, :1]).all() and (mask.sum((1, 2, 3, 4)) == 12 * 16).all()
    coarse = NOISE.reshape(-1, *GRID)[:, ::4, ::4].reshape(-1, 16)  # one number a square, as in Pixio
    expected = random_mask(arrange_noise(coarse, (4, 4), color), (4, 4), 4)
    np.testing.assert_array_equal(mask[:, :, 0, :, 0], expected)


@pytest.mark.slow
@pytest.mark.parametrize("cell", [1, 2])
def test_disjoint_views_of_coloured_noise_are_disjoint(cell):
    arranged = arrange_noise(NOISE, GRID, "green", cell)
    views = random_mask(disjoint_noise(arranged, 4, 64), GRID, 64).reshape(-1, 4, *GRID)
    assert (jnp.sum(~views, axis=1) == 1).all()
