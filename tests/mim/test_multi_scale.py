"""Targets at several scales: their loss by definition, their order, and the finest scale in pictures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastmim_jax.mim.losses import masked_mse
from fastmim_jax.mim.targets import Target
from fastmim_jax.mim.targets.hog import HOG
from fastmim_jax.mim.targets.multi_scale import MultiScale
from fastmim_jax.mim.targets.pixels import Pixels
from fastmim_jax.models.layers import mean_pool, upsample_nearest

RANDOM = np.random.default_rng(0)
IMAGES = jnp.asarray(RANDOM.standard_normal((2, 64, 96, 3)), jnp.float32)
SIZES = (4, 8, 16, 32)
TARGETS = [MultiScale(HOG(), SIZES), MultiScale(Pixels(), (32, 8)), MultiScale(HOG(normalize=False), (16,))]


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_the_loss_is_the_sum_of_the_masked_losses_of_the_scales(target):
    """With the masks of a scale: repeated for smaller squares, their mean for larger ones."""
    grids = [target.at(size)(IMAGES, size) for size in target.sizes]
    predicted = [x + jnp.asarray(RANDOM.standard_normal(x.shape), jnp.float32) for x in grids]
    mask = jnp.asarray(RANDOM.random((2, 4, 6)) < 0.6, jnp.float32)
    expected = 0.0
    for x, y, size in zip(predicted, grids, target.sizes, strict=True):
        own = upsample_nearest(mask, 16 // size) if size < 16 else mean_pool(mask[..., None], size // 16)
        error, own = np.square(x - y).mean(-1), np.asarray(own).reshape(x.shape[:3])
        expected += (error * own).sum() / own.sum()
    values = jax.jit(target, static_argnums=1)(IMAGES, 16)
    assert values.shape == (2, 4, 6, target.values(16, 3)) and isinstance(target, Target)
    np.testing.assert_allclose(masked_mse(target.pack(predicted, 16), values, mask), expected, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_scales_are_unpacked_split_and_depicted(target):
    values = jax.jit(target, static_argnums=1)(IMAGES, 16)
    for found, size in zip(target.unpack(values, 16), target.sizes, strict=True):
        np.testing.assert_allclose(found, target.at(size)(IMAGES, size), atol=1e-5)
    if target.unit <= 8:
        np.testing.assert_allclose(target.split(values, 2, 16), target(IMAGES, 8), atol=1e-4)
    depiction = target.depict(values, values, IMAGES, 16)
    np.testing.assert_allclose(depiction.predicted, depiction.true, atol=1e-4)
    if isinstance(target.target, HOG):
        assert depiction.true.shape[1:3] == (64 // target.unit, 96 // target.unit)
