"""Order and scale of target values, and how targets are depicted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastmim_jax.mim.hog import hog
from fastmim_jax.mim.targets import TARGETS, Target
from fastmim_jax.mim.targets.depiction import Histograms, Images
from fastmim_jax.mim.targets.hog import HOG
from fastmim_jax.mim.targets.pixels import Pixels, patch_statistics
from fastmim_jax.models.layers import patchify, unpatchify

IMAGES = jnp.asarray(np.random.default_rng(0).standard_normal((2, 32, 64, 3)), jnp.float32)


def of_images(target, size):
    """Return a target of IMAGES, compiled once."""
    return jax.jit(target, static_argnums=1)(IMAGES, size)


def test_hog_values_are_ordered_by_channel_bin_row_column():
    tokens = np.asarray(of_images(HOG(), 16))
    cells = np.asarray(jax.jit(hog)(IMAGES))
    assert tokens.shape == (2, 2, 4, 27 * 4)
    for value in (0, 5, 26):
        for i in (0, 1):
            for j in (0, 1):
                at = (value * 2 + i) * 2 + j
                np.testing.assert_array_equal(tokens[:, :, :, at], cells[:, i::2, j::2, value])


@pytest.mark.parametrize("target", [HOG(), HOG(normalize=False), Pixels(normalize=False)])
@pytest.mark.parametrize("parts", [1, 2, 4])
def test_split_gives_the_target_of_finer_tokens(target, parts):
    coarse = of_images(target, 32)
    assert coarse.shape[-1] == target.values(32, 3)
    finer = jax.jit(target.split, static_argnums=(1, 2))(coarse, parts, 32)
    np.testing.assert_allclose(finer, of_images(target, 32 // parts), rtol=1e-6)


def test_normalised_pixels_have_zero_mean_and_unbiased_unit_variance():
    tokens = np.asarray(Pixels()(IMAGES, 16))
    np.testing.assert_allclose(tokens.mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(tokens.var(-1, ddof=1), 1, atol=1e-4)


def test_statistics_undo_the_normalisation():
    patches = patchify(IMAGES, 16)
    mean, std = patch_statistics(patches)
    np.testing.assert_allclose(Pixels()(IMAGES, 16) * std + mean, patches, atol=1e-5)


def test_patchify_has_an_inverse_and_row_column_channel_order():
    patches = patchify(IMAGES, 8)
    np.testing.assert_array_equal(patches[1, 2, 3, (5 * 8 + 6) * 3 + 2], IMAGES[1, 21, 30, 2])
    np.testing.assert_array_equal(unpatchify(patches, 8), IMAGES)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("name", TARGETS)
def test_a_perfect_prediction_is_depicted_as_the_truth(name, normalize):
    target = TARGETS[name](normalize=normalize)
    assert isinstance(target, Target) and 16 % target.unit == 0
    values = of_images(target, 16)
    depiction = target.depict(values, values, IMAGES, 16)
    np.testing.assert_allclose(depiction.predicted, depiction.true, atol=1e-5)


def test_histograms_are_depicted_by_cell_and_channel():
    values = of_images(HOG(), 16)
    depiction = HOG().depict(values, values, IMAGES, 16)
    assert type(depiction) is Histograms and depiction.normalized
    np.testing.assert_array_equal(depiction.predicted.reshape(2, 4, 8, 27), jax.jit(hog)(IMAGES))
    assert not HOG(normalize=False).depict(values, values, IMAGES, 16).normalized


def test_predicted_pixels_get_the_contrast_of_the_true_ones():
    values = Pixels()(IMAGES, 16)
    depiction = Pixels().depict(jnp.zeros_like(values), values, IMAGES, 16)
    assert type(depiction) is Images and "taken from the truth" in depiction.note
    patches = patchify(IMAGES, 16)
    means = jnp.broadcast_to(patches.mean(-1, keepdims=True), patches.shape)
    np.testing.assert_allclose(depiction.predicted, unpatchify(means, 16), atol=1e-6)
    np.testing.assert_array_equal(depiction.true, IMAGES)
    plain = Pixels(normalize=False).depict(patches, patches, IMAGES, 16)
    assert plain.note == ""
    np.testing.assert_array_equal(plain.predicted, IMAGES)
