"""The ridge probe: least squares from standardised features to one-hot labels, in closed form.

The quick number for masked image modelling, whose features are linearly useful long before neighbours in
their space share a class, and more so some layers before the last.
"""

import numpy as np

from fastmim_jax.errors import UserError
from fastmim_jax.evaluate.probes.affine import Affine, accuracies, chunks, moments, standardise
from fastmim_jax.evaluate.probes.folds import held_out
from fastmim_jax.evaluate.probes.result import Result, check, choose

# Strongest first: of equals the strongest is chosen. The standardised features have a mean square of 1.
PENALTIES = tuple(float(f"1e{power}") for power in range(2, -7, -1))
HELD_OUT = 0.2


def fit(x, labels, classes, penalties):
    """One classifier for every penalty, from one covariance, in float64.

    The objective is scikit-learn's `Ridge(alpha)` on standardised features and one-hot targets, the sum of
    squares plus alpha times the squared weights, with alpha = penalty * N: a penalty means the same for
    any number of images. `RidgeClassifier(alpha)` tells the same classes.

    Args:
      x: (N, D) features, N and D any.
      labels: (N,) whole numbers in [0, classes).
      penalties: P numbers above 0.

    Returns:
      Affine of P classifiers, intercept (K,).

    Raises:
      UserError: a penalty that is not above 0.
    """
    if not all(0 < penalty < np.inf for penalty in penalties):
        raise UserError(f"the penalties are {', '.join(map(str, penalties))}: give numbers above 0")
    mean, std = moments(x)
    covariance, cross = np.zeros((x.shape[1], x.shape[1])), np.zeros((x.shape[1], classes))
    for rows in chunks(len(x)):
        z = standardise(x[rows], mean, std)
        covariance += z.T @ z / len(x)
        cross += z.T @ np.eye(classes)[labels[rows]] / len(x)
    # Nine of these cost about as much as one eigendecomposition for all, and the last fit is of one.
    ridges = (covariance + penalty * np.eye(len(covariance)) for penalty in penalties)
    weights = np.stack([np.linalg.solve(ridge, cross) for ridge in ridges])
    return Affine(mean, std, weights, np.bincount(labels, minlength=classes) / len(x))


def probe(train, test, classes, penalties=PENALTIES, seed=0):
    """Chooses the penalty on held-out training images, then fits on all of them.

    Args:
      train, test: (features (N, D), labels (N,)) each.
      classes: number of them.
      penalties: as of `fit`; of equally good ones the first is taken.
      seed: of which images are held out, HELD_OUT of them.

    Returns:
      Result; `tried` has the penalties.

    Raises:
      UserError: as `result.check`, `folds.held_out` and `fit`.
    """
    (x, labels), test = check(train, test, classes)
    out = held_out(labels, HELD_OUT, seed)
    found = accuracies(fit(x[~out], labels[~out], classes, penalties), x[out], labels[out])
    tried = dict(zip(penalties, found.tolist(), strict=True))
    chosen = choose(tried)
    accuracy = accuracies(fit(x, labels, classes, [chosen]), *test)
    return Result(float(accuracy[0]), f"penalty {chosen:g}", chosen, tried)
