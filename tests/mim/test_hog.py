"""HOG against the published layer, its definition, and its limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastmim_jax import hog
from fastmim_jax.mim.hog import histograms, histograms_by_row, sobel, sobel_by_shifts
from helpers import published
from helpers.sweeps import sweep

CASES, NUMBERS = published.load("hog")
COMPILED = jax.jit(hog, static_argnames=("bins", "cell", "normalize", "gaussian_window"))
# Relative; observed at most 3e-7 (both sides are float32).
TOLERANCE = 1e-6
# Flat channels of these 8-bit images: the published float32 code leaves sums of 2.4e-7 instead of 0, then
# divides by their norm; its float64 result agrees with our zeros.
FLAT_CELLS = {"hog_64_u8": 6, "hog_64_u8_norm0": 6}


def case_images(name):
    case = CASES[name]
    if f"{name}/pixels" in NUMBERS:
        return published.imagenet_normalized(NUMBERS[f"{name}/pixels"])
    if f"{name}/images" in NUMBERS:
        return NUMBERS[f"{name}/images"]
    return published.images(0, case["n"], case["h"], case["w"])


def unit(histograms):
    return histograms / np.maximum(np.linalg.norm(histograms, axis=-1, keepdims=True), 1e-12)


QUICK = ["hog_32_norm0", "hog_48x80_norm1", "hog_64_gauss16", "hog_64_pool4_bins12", "hog_64_u8"]


@pytest.mark.parametrize("name", sweep(CASES, QUICK, pytest.mark.slow))
def test_equals_published_except_at_ties_of_rounding(name):
    case, images = CASES[name], case_images(name)
    options = {key: case[key] for key in ("bins", "cell", "normalize", "gaussian_window")}
    ours = np.asarray(COMPILED(images, **options))
    shape = (*ours.shape[:3], 3, case["bins"])
    ours, theirs = ours.reshape(shape), NUMBERS[f"{name}/hog"].reshape(shape)

    pixels = np.unpackbits(NUMBERS[f"{name}/near_edge"])[: images.size].reshape(images.shape)
    by_cell = pixels.reshape(shape[0], shape[1], case["cell"], shape[2], case["cell"], 3)
    undecided = by_cell.any((2, 4))
    flat = (np.abs(unit(theirs)).max(-1) > 0.5) & (np.abs(ours).max(-1) == 0)
    assert flat.sum() == FLAT_CELLS.get(name, 0)

    clear = ~undecided & ~flat
    assert clear.mean() > 0.45
    assert np.abs(unit(ours) - unit(theirs))[clear].max() < TOLERANCE
    if not case["normalize"]:
        largest = theirs.max()
        assert np.abs(ours - theirs)[clear].max() < TOLERANCE * largest


def by_definition(image, bins, cell):
    """HOG of one (H, W) image in float64, pixel by pixel."""
    padded = np.pad(np.float64(image), 1, mode="reflect")
    kernel = np.array([[1, 0, -1], [2, 0, -2], [1, 0, -1]])
    height, width = image.shape
    cells = np.zeros((height // cell, width // cell, bins))
    for y in range(height):
        for x in range(width):
            patch = padded[y : y + 3, x : x + 3]
            gx, gy = (patch * kernel).sum(), (patch * kernel.T).sum()
            vote = int(np.floor(np.arctan2(gx, gy) / np.pi * bins)) % bins
            cells[y // cell, x // cell, vote] += np.hypot(gx, gy)
    return cells


@pytest.mark.parametrize(("bins", "cell", "shape"), [(9, 8, (16, 24)), (7, 4, (8, 12))])
def test_equals_its_definition(bins, cell, shape):
    image = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    ours = COMPILED(image[None, :, :, None], bins=bins, cell=cell, normalize=False)[0]
    np.testing.assert_allclose(ours, by_definition(image, bins, cell), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("ramp", "main_bin"),
    [(lambda i, j: j, 4), (lambda i, j: i, 0), (lambda i, j: i + j, 2), (lambda i, j: j - i, 6)],
)
def test_ramps_vote_for_their_orientation(ramp, main_bin):
    i, j = np.meshgrid(np.arange(32.0), np.arange(32.0), indexing="ij")
    inner = np.asarray(COMPILED(ramp(i, j)[None, :, :, None]))[0, 1:-1, 1:-1]
    np.testing.assert_allclose(inner, np.eye(9)[main_bin] * np.ones_like(inner), atol=1e-6)


def test_opposite_gradients_share_a_bin():
    image = np.random.default_rng(1).standard_normal((1, 32, 32, 2)).astype(np.float32)
    np.testing.assert_allclose(COMPILED(image), COMPILED(-image), atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.25, 0.3, 2.2489083, -2.117904])
@pytest.mark.parametrize("normalize", [True, False])
def test_constant_image_gives_zeros(value, normalize):
    out = COMPILED(jnp.full((1, 24, 16, 3), value), normalize=normalize)
    assert not np.asarray(out).any()


@pytest.mark.parametrize("channels", [1, 3, 13])
def test_channels_are_independent(channels):
    images = np.random.default_rng(2).standard_normal((2, 16, 40, channels)).astype(np.float32)
    together = np.asarray(COMPILED(images))
    assert together.shape == (2, 2, 5, 9 * channels)
    for c in range(channels):
        np.testing.assert_array_equal(together[..., 9 * c : 9 * c + 9], COMPILED(images[..., c : c + 1]))


def test_normalised_target_ignores_brightness_and_contrast():
    images = np.random.default_rng(3).standard_normal((1, 32, 32, 3)).astype(np.float32)
    np.testing.assert_allclose(COMPILED(images), COMPILED(4 * images + 8), atol=1e-4)


@pytest.mark.slow
def test_no_gradient_flows_through_it():
    images = jnp.asarray(np.random.default_rng(4).standard_normal((1, 16, 16, 1)), jnp.float32)
    assert not np.asarray(jax.grad(lambda x: hog(x).sum())(images)).any()


def test_sides_that_cells_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="multiples of 8, got 20x16"):
        hog(jnp.zeros((1, 20, 16, 3)))


def test_memory_does_not_grow_with_the_number_of_bins():
    images = jax.ShapeDtypeStruct((4, 128, 128, 3), jnp.float32)
    memory = jax.jit(hog).lower(images).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 4.5 * 4 * images.size  # half of nine float32 copies


@pytest.mark.slow
@pytest.mark.parametrize("weighted", [True, False])
def test_programs_of_all_platforms_agree(weighted):
    random = np.random.default_rng(5)
    images = jnp.asarray(random.integers(0, 256, (2, 24, 16, 3)) / 58 - 2, jnp.float32)
    weights = jnp.asarray(random.random((24, 16)), jnp.float32) if weighted else None
    cpu = histograms(images, bins=9, cell=8, weights=weights, sobel=sobel)
    gpu = histograms(images, bins=9, cell=8, weights=weights, sobel=sobel_by_shifts)
    tpu = histograms_by_row(images, bins=9, cell=8, weights=weights)
    assert cpu.shape == (2, 3, 2, 3, 9)
    np.testing.assert_allclose(gpu, cpu, rtol=1e-6)
    np.testing.assert_allclose(tpu, cpu, rtol=1e-6)
