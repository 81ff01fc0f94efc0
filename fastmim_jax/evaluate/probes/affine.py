"""Linear classifiers on standardised features: what the ridge and the SGD probe have in common.

Features are standardised with the mean and the deviation of the training features, fixed before anything
is fitted. A batch norm in their place would depend on its mode and on the other images of the batch.
"""

from typing import NamedTuple

import numpy as np

ROWS = 2048  # that are standardised at a time


class Affine(NamedTuple):
    """C classifiers that share their features, numpy arrays.

    mean, deviation: (D,), of the training features. weights: (C, D, K), for standardised features.
    intercept: (K,), or (C, K).
    """

    mean: np.ndarray
    std: np.ndarray
    weights: np.ndarray
    intercept: np.ndarray


def moments(x):
    """(N, D) -> mean and deviation, (D,) float64 each; as StandardScaler, but for constant features.

    A constant feature has an infinite deviation, so that it is 0 after standardising, in any image.
    """
    constant = x.max(0) == x.min(0)  # exact, which a deviation of rounded sums is not
    return x.mean(0, dtype=np.float64), np.where(constant, np.inf, x.std(0, dtype=np.float64))


def standardise(x, mean, std):
    """(N, D) -> the same, float64."""
    return (x - mean) / std


def chunks(count):
    """Slices that cover `count` rows, ROWS at a time."""
    return [slice(start, start + ROWS) for start in range(0, count, ROWS)]


def scores(affine, x):
    """(N, D) features as they are -> (C, N, K) float64."""
    return standardise(x, affine.mean, affine.std) @ affine.weights + affine.intercept[..., None, :]


def predict(affine, x):
    """(N, D) features as they are -> (C, N) classes; of equal scores the first."""
    return np.concatenate([scores(affine, x[rows]).argmax(-1) for rows in chunks(len(x))], 1)


def accuracies(affine, x, labels):
    """(N, D) features as they are, (N,) -> (C,) shares that are told right."""
    return (predict(affine, x) == labels).mean(1)
