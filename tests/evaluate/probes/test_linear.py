"""The linear probe: what it learns, and that its learning rates are independent."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from fastmim_jax.errors import UserError
from fastmim_jax.evaluate.probes import ridge
from fastmim_jax.evaluate.probes.linear import fit, probe

FAST = dict(epochs=20, batch_size=50, seed=0)


@pytest.fixture(scope="module")
def digits():
    """8 x 8 pixels of written digits, some of them constant: (train, test) of 1,200 and 597."""
    x, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, labels = x[order].astype(np.float32), labels[order]
    return (x[:1200], labels[:1200]), (x[1200:], labels[1200:])


def separable(images=600):
    rng = np.random.default_rng(0)
    labels = np.arange(images) % 3
    x = rng.normal(size=(images, 10)) + 8 * np.eye(10)[labels]
    return (x[::2] * 100 + 1e3, labels[::2]), (x[1::2] * 100 + 1e3, labels[1::2])


@pytest.mark.slow
def test_learns_what_is_separable():
    result = probe(*separable(), 3, **FAST)
    assert result.accuracy == 1 and result.held_out[result.best] == 1
    assert result.setting == f"learning rate {result.best:g}"


@pytest.mark.slow
def test_agrees_with_ridge(digits):
    """Two losses on the same features: within 4 points, far from chance."""
    linear, closed = probe(*digits, 10, **FAST), ridge.probe(*digits, 10)
    assert abs(linear.accuracy - closed.accuracy) < 0.04 and linear.accuracy > 0.92
    assert len(linear.held_out) == 8 and min(linear.held_out.values()) < max(linear.held_out.values())


@pytest.mark.slow
def test_learning_rates_are_independent(digits):
    """1e-5: the sums are of float32, in another order."""
    rates = [1e-3, 1e-1, 3.0]
    together = fit(*digits[0], 10, rates, epochs=3, batch_size=100, seed=0)
    for number, rate in enumerate(rates):
        alone = fit(*digits[0], 10, [rate], epochs=3, batch_size=100, seed=0)
        for ours, theirs in [(together.weights, alone.weights), (together.bias, alone.bias)]:
            np.testing.assert_allclose(ours[number], theirs[0], atol=1e-5 * np.abs(theirs).max())


@pytest.mark.slow
def test_two_steps_by_hand():
    """One batch of all images, two epochs: factors 1 and 0.5 (half a cosine in two steps), momentum 0.9."""
    (x, labels), _ = separable(60)
    fitted = fit(x, labels, 3, [0.3], epochs=2, batch_size=1000, seed=0)
    z, wanted = (x - x.mean(0)) / x.std(0), np.eye(3)[labels]
    ones = np.hstack([z, np.ones((len(z), 1))])  # the intercept is one more weight

    def slope(weights):
        odds = np.exp(ones @ weights)
        return ones.T @ (odds / odds.sum(1, keepdims=True) - wanted) / len(z)

    first = slope(np.zeros((11, 3)))
    weights = -0.3 * first
    weights = weights - 0.15 * (0.9 * first + slope(weights))
    np.testing.assert_allclose(fitted.weights[0], weights[:10], atol=1e-6)
    np.testing.assert_allclose(fitted.bias[0], weights[10], atol=1e-6)
    np.testing.assert_allclose(fitted.logits(x)[0], ones @ weights, atol=1e-5)


@pytest.mark.slow
def test_the_seed_decides(digits):
    settings = dict(epochs=2, batch_size=100)
    first, again, other = (fit(*digits[0], 10, [0.1], seed=seed, **settings) for seed in (0, 0, 1))
    assert (first.weights == again.weights).all() and (first.weights != other.weights).any()


@pytest.mark.slow
def test_a_rate_that_diverges_is_never_chosen(digits):
    """Even where it comes first and the others know nothing."""
    (x, labels), test = digits
    for train in [(x, labels), (x, np.roll(labels, 7))]:
        result = probe(train, test, 10, [np.inf, 1e-2, 1e38], **FAST)
        assert result.best == 1e-2 and np.isnan(result.held_out[np.inf]) and np.isnan(result.held_out[1e38])
    with pytest.raises(UserError, match=r"diverged at every learning rate \(inf\)"):
        probe(*digits, 10, [np.inf], **FAST)


@pytest.mark.slow
def test_the_rate_is_chosen_without_the_test_images(digits):
    train, (others, wanted) = digits
    honest, other = probe(*digits, 10, **FAST), probe(train, (others[::-1], wanted), 10, **FAST)
    assert honest.best == other.best and honest.held_out == other.held_out
    assert other.accuracy < 0.3 < honest.accuracy
