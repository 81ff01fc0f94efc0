import numpy as np

from fastmim_jax.mim.losses import masked_mean_square, target_moments

RANDOM = np.random.default_rng(0)
PREDICTION, TARGET = RANDOM.standard_normal((2, 3, 4, 5, 6)).astype(np.float32)
MASK = RANDOM.random((3, 4, 5)) < 0.7


def test_only_hidden_tokens_count():
    expected = np.mean((PREDICTION - TARGET)[MASK] ** 2)
    np.testing.assert_allclose(masked_mean_square(PREDICTION, TARGET, MASK), expected, rtol=1e-6)
    elsewhere = np.where(MASK[..., None], PREDICTION, np.nan)
    np.testing.assert_allclose(masked_mean_square(elsewhere, TARGET, MASK), expected, rtol=1e-6)


def test_moments_are_those_of_the_hidden_targets():
    count, total, squares = target_moments(TARGET, MASK)
    assert count == MASK.sum()
    np.testing.assert_allclose(total, TARGET[MASK].sum(0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(squares, (TARGET[MASK] ** 2).sum(0), rtol=1e-5)
