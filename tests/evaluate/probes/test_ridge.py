"""The ridge probe: what it minimises, and what may and may not change its result."""

import numpy as np
import pytest

from fastmim_jax.errors import UserError
from fastmim_jax.evaluate.probes.ridge import fit, probe


def problem(images=300, width=20, classes=4, spread=1.0, seed=0):
    """Features (N, D) of very different size around a centre for each class, and labels (N,)."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=images)
    x = spread * rng.normal(size=(classes, width))[labels] + rng.normal(size=(images, width))
    return x * np.logspace(-3, 3, width) + 5, labels


def halves(x, labels):
    middle = len(x) // 2
    return (x[:middle], labels[:middle]), (x[middle:], labels[middle:])


@pytest.mark.parametrize("images, width, classes", [(300, 20, 4), (60, 90, 3), (200, 8, 2)])
def test_minimises_the_penalised_squares(images, width, classes):
    """The normal equations hold for targets of 1 and -1; more features than images, and two classes."""
    x, labels = problem(images, width, classes)
    scaler, ridge = fit(x, labels, 1e-2)
    z, weights = scaler.transform(x), np.atleast_2d(ridge.coef_)
    targets = (2.0 * np.eye(classes)[labels] - 1)[:, -len(weights) :]
    residual = targets - z @ weights.T - ridge.intercept_
    np.testing.assert_allclose(z.T @ residual, 1e-2 * images * weights.T, atol=1e-8 * images)
    np.testing.assert_allclose(residual.mean(0), 0, atol=1e-10)


def test_size_and_shift_of_features_change_nothing():
    x, labels = problem(spread=0.4)
    rng = np.random.default_rng(1)
    y = x * rng.choice([-30, 0.01, 7], x.shape[1]) + rng.normal(size=x.shape[1])
    plain, scaled = probe(*halves(x, labels), 4), probe(*halves(y, labels), 4)
    assert plain.best == scaled.best and plain.held_out == scaled.held_out
    assert plain.accuracy == scaled.accuracy


def test_standardises_by_the_training_features_only():
    (x, labels), (others, _) = halves(*problem())
    fitted = fit(x, labels, 1e-1)
    found = fitted.predict(others)
    assert (found == np.concatenate([fitted.predict(row[None]) for row in others])).all()
    assert (found != fitted.predict(others + x.std(0))).any()


def test_a_feature_that_is_constant_in_training_is_ignored():
    """Also where it is not constant in the test; 0.1 has no exact sum."""
    (x, labels), (others, expected) = halves(*problem(400))
    constant = np.full((len(x), 1), 0.1)
    noisy = np.random.default_rng(0).normal(size=(len(others), 1))
    plain = probe((x, labels), (others, expected), 4)
    more = probe((np.hstack([constant, x]), labels), (np.hstack([noisy, others]), expected), 4)
    assert plain == more
    weights = fit(np.hstack([constant, x]), labels, 1e-9)[-1].coef_
    assert np.isfinite(weights).all() and np.abs(weights[:, 0]).max() < 1e-6


def test_separates_an_informative_layer_from_noise():
    x, labels = problem(1000, 20, 4)
    noise = np.random.default_rng(1).normal(size=x.shape)
    assert probe(*halves(x, labels), 4).accuracy > 0.95
    assert abs(probe(*halves(noise, labels), 4).accuracy - 0.25) < 0.1


@pytest.mark.slow
def test_wide_noise_needs_a_strong_penalty():
    """With as many features as images to fit, 160, the least penalty fits all of the noise."""
    x, labels = problem(400, 160, 4, spread=0.2)
    result = probe(*halves(x, labels), 4, [10, 1e-8])
    assert result.best == 10 and result.setting == "penalty 10"
    assert result.held_out[10] > result.held_out[1e-8] + 0.1
    assert result.accuracy > probe(*halves(x, labels), 4, [1e-8]).accuracy + 0.1


def test_the_penalty_is_chosen_without_the_test_images():
    train, (others, expected) = halves(*problem(spread=0.3))
    honest = probe(train, (others, expected), 4)
    shuffled = probe(train, (others[::-1] ** 2, np.roll(expected, 1)), 4)
    assert honest.best == shuffled.best and honest.held_out == shuffled.held_out
    assert honest.accuracy != shuffled.accuracy


def test_the_last_fit_uses_all_training_images():
    train, (others, expected) = halves(*problem(spread=0.3))
    result = probe(train, (others, expected), 4)
    assert result.accuracy == fit(*train, result.best).score(others, expected)
    assert result == probe(train, (others, expected), 4)


def test_float32_features_and_a_class_without_images():
    x, labels = problem(spread=2)
    result = probe(*halves(x.astype(np.float32), labels), 9)
    assert result.accuracy > 0.95


@pytest.mark.parametrize("penalty", [0, -1, float("nan"), float("inf")])
def test_a_penalty_is_above_zero(penalty):
    with pytest.raises(UserError, match="numbers above 0"):
        probe(*halves(*problem()), 4, [1, penalty])


def spoiled(x):
    x = x.copy()
    x[[3, 5], 7] = np.nan, np.inf
    return x


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda train, test: (train, (spoiled(test[0]), test[1]), 4), "test features of 2 of 150 images"),
        (lambda train, test: (train, test, 3), "training labels are 0 to 3, expected 0 to 2"),
        (lambda train, test: (train, (test[0][:, 1:], test[1]), 4), r"test features are \(150, 19\)"),
        (lambda train, test: ((train[0], train[1][1:]), test, 4), r"with labels \(149,\)"),
        (lambda train, test: (train, (test[0][:0], test[1][:0]), 4), r"test features are \(0, 20\)"),
    ],
)
def test_bad_input_is_one_sentence(change, message):
    with pytest.raises(UserError, match=message):
        probe(*change(*halves(*problem())))
