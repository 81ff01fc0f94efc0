"""Losses against plain NumPy."""

import numpy as np

from fastmim_jax.mim.losses import masked_l1, masked_mse, mean_target

RANDOM = np.random.default_rng(0)
PREDICTION, TARGET = RANDOM.standard_normal((2, 3, 4, 5, 6)).astype(np.float32)
MASK = RANDOM.random((3, 4, 5)) < 0.7


def test_only_masked_tokens_count():
    expected = np.mean((PREDICTION - TARGET)[MASK] ** 2)
    np.testing.assert_allclose(masked_mse(PREDICTION, TARGET, MASK), expected, rtol=1e-6)
    elsewhere = np.where(MASK[..., None], PREDICTION, np.nan)
    np.testing.assert_allclose(masked_mse(elsewhere, TARGET, MASK), expected, rtol=1e-6)


def test_absolute_and_weighted_errors():
    expected = np.mean(np.abs(PREDICTION - TARGET)[MASK])
    np.testing.assert_allclose(masked_l1(PREDICTION, TARGET, MASK), expected, rtol=1e-6)
    weight = np.where(MASK, RANDOM.random(MASK.shape), 0).astype(np.float32)
    expected = np.average(np.square(PREDICTION - TARGET).mean(-1), weights=weight)
    np.testing.assert_allclose(masked_mse(PREDICTION, TARGET, weight), expected, rtol=1e-6)
    expected = np.average(TARGET.reshape(-1, 6), axis=0, weights=weight.ravel())
    np.testing.assert_allclose(mean_target(TARGET, weight), expected, rtol=1e-4, atol=1e-5)


def test_mean_target_covers_masked_tokens_only():
    np.testing.assert_allclose(mean_target(TARGET, MASK), TARGET[MASK].mean(0), rtol=1e-4, atol=1e-5)
