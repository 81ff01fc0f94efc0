"""The ridge probe against scikit-learn, and what may and may not matter to it."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge, RidgeClassifier
from sklearn.preprocessing import StandardScaler

from fastmim_jax.errors import UserError
from fastmim_jax.evaluate.probes.affine import predict, scores
from fastmim_jax.evaluate.probes.ridge import fit, probe

PENALTIES = [1e-3, 1e-1, 10.0]


def problem(images=300, width=20, classes=4, spread=1.0, seed=0):
    """Features (N, D) of very different size around a centre for each class, and labels (N,)."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=images)
    x = spread * rng.normal(size=(classes, width))[labels] + rng.normal(size=(images, width))
    return x * np.logspace(-3, 3, width) + 5, labels


def halves(x, labels):
    middle = len(x) // 2
    return (x[:middle], labels[:middle]), (x[middle:], labels[middle:])


@pytest.mark.parametrize("images, width, classes", [(300, 20, 4), (60, 90, 3), (200, 8, 2), (2500, 6, 3)])
def test_equals_scikit_learn(images, width, classes):
    """Weights, scores and classes; more features than images, two classes, more than one chunk of rows.

    1e-6 of the largest weight: both are exact in float64, but for the condition of the covariance.
    """
    x, labels = problem(images, width, classes)
    fitted = fit(x, labels, classes, PENALTIES)
    scaler = StandardScaler().fit(x)
    other, _ = problem(2100, width, classes, seed=1)
    for number, penalty in enumerate(PENALTIES):
        theirs = Ridge(alpha=penalty * images).fit(scaler.transform(x), np.eye(classes)[labels])
        close = dict(rtol=0, atol=1e-6 * np.abs(theirs.coef_).max())
        np.testing.assert_allclose(fitted.weights[number], theirs.coef_.T, **close)
        np.testing.assert_allclose(fitted.intercept, theirs.intercept_, **close)
        np.testing.assert_allclose(
            scores(fitted, other)[number], theirs.predict(scaler.transform(other)), rtol=1e-5, atol=1e-5
        )
        classifier = RidgeClassifier(alpha=penalty * images).fit(scaler.transform(x), labels)
        assert (predict(fitted, other)[number] == classifier.predict(scaler.transform(other))).all()


def test_size_and_shift_of_features_change_nothing():
    x, labels = problem(spread=0.4)
    rng = np.random.default_rng(1)
    y = x * rng.choice([-30, 0.01, 7], x.shape[1]) + rng.normal(size=x.shape[1])
    plain, scaled = probe(*halves(x, labels), 4), probe(*halves(y, labels), 4)
    assert plain.chosen == scaled.chosen and plain.tried == scaled.tried
    assert plain.accuracy == scaled.accuracy


def test_standardises_by_the_training_features_only():
    (x, labels), (others, _) = halves(*problem())
    fitted = fit(x, labels, 4, PENALTIES)
    found = predict(fitted, others)
    alone = np.concatenate([predict(fitted, row[None]) for row in others], 1)
    assert (found == alone).all()
    assert (found != predict(fitted, others + x.std(0))).any()


def test_a_feature_that_is_constant_in_training_counts_nothing():
    """Also where it is not constant in the test; 0.1 has no exact sum."""
    (x, labels), (others, wanted) = halves(*problem(400))
    constant = np.full((len(x), 1), 0.1)
    noisy = np.random.default_rng(0).normal(size=(len(others), 1)) * 1e6
    plain = probe((x, labels), (others, wanted), 4)
    more = probe((np.hstack([constant, x]), labels), (np.hstack([noisy, others]), wanted), 4)
    assert plain == more
    weights = fit(np.hstack([constant, x]), labels, 4, [1e-9]).weights
    assert np.isfinite(weights).all() and np.abs(weights[0, 0]).max() < 1e-9


def test_tells_an_informative_layer_from_noise():
    x, labels = problem(1000, 20, 4)
    noise = np.random.default_rng(1).normal(size=x.shape)
    assert probe(*halves(x, labels), 4).accuracy > 0.95
    assert abs(probe(*halves(noise, labels), 4).accuracy - 0.25) < 0.1


def test_wide_noise_asks_for_a_strong_penalty():
    """With as many features as images to fit, 160, the least penalty fits all of the noise."""
    x, labels = problem(400, 160, 4, spread=0.2)
    result = probe(*halves(x, labels), 4, [10, 1e-8])
    assert result.chosen == 10 and result.told == "penalty 10"
    assert result.tried[10] > result.tried[1e-8] + 0.1
    assert result.accuracy > probe(*halves(x, labels), 4, [1e-8]).accuracy + 0.1


def test_the_penalty_is_not_looked_for_in_the_test():
    train, (others, wanted) = halves(*problem(spread=0.3))
    honest = probe(train, (others, wanted), 4)
    shuffled = probe(train, (others[::-1] ** 2, np.roll(wanted, 1)), 4)
    assert honest.chosen == shuffled.chosen and honest.tried == shuffled.tried
    assert honest.accuracy != shuffled.accuracy


def test_all_training_images_are_fitted_in_the_end():
    train, (others, wanted) = halves(*problem(spread=0.3))
    result = probe(train, (others, wanted), 4)
    assert result.accuracy == (predict(fit(*train, 4, [result.chosen]), others)[0] == wanted).mean()
    assert result == probe(train, (others, wanted), 4)


def test_float32_features_and_a_class_without_images():
    x, labels = problem(spread=2)
    result = probe(*halves(x.astype(np.float32), labels), 9)
    assert result.accuracy > 0.95


@pytest.mark.parametrize("penalty", [0, -1, float("nan"), float("inf")])
def test_a_penalty_is_above_zero(penalty):
    with pytest.raises(UserError, match="numbers above 0"):
        fit(*problem(), 4, [1, penalty])


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
