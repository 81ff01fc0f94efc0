"""Input checks and the result of every probe."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fastmim_jax.errors import UserError

Labelled = tuple[np.ndarray, np.ndarray]  # features (N, D) and labels (N,)


class ProbeResult(NamedTuple):
    """Result of a probe.

    Attributes:
      accuracy: share of the test images classified correctly, in [0, 1].
      setting: the hyperparameter used, for people, such as "penalty 0.01".
      best: its value.
      held_out: {value: accuracy on the held-out training images} of all values compared; nan where
        training diverged, empty where there was nothing to choose.
    """

    accuracy: float
    setting: str
    best: float
    held_out: dict[float, float]


def check_features(
    train: tuple[ArrayLike, ArrayLike], test: tuple[ArrayLike, ArrayLike], classes: int
) -> tuple[Labelled, Labelled]:
    """Return the same pairs as arrays after checking them.

    Args:
      train, test: (features (N, D) of any real dtype, labels (N,) integers in [0, classes)) each.
      classes: number of classes.

    Raises:
      UserError: shapes that do not fit, no images, labels out of range, features that are not finite.
    """
    pairs = {
        "training": (np.asarray(train[0]), np.asarray(train[1])),
        "test": (np.asarray(test[0]), np.asarray(test[1])),
    }
    width = pairs["training"][0].shape[-1]
    for name, (x, labels) in pairs.items():
        if x.ndim != 2 or x.shape[1] != width or labels.shape != x.shape[:1] or not x.size:
            raise UserError(
                f"the {name} features are {x.shape} with labels {labels.shape}, expected (images, {width}) "
                "with (images,): give one row of features and one label for every image"
            )
        if labels.min() < 0 or labels.max() >= classes:
            raise UserError(
                f"the {name} labels are {labels.min()} to {labels.max()}, expected 0 to {classes - 1}: "
                "give the number of classes of the data"
            )
        bad = len(x) - int(np.isfinite(x).all(1).sum())
        if bad:
            raise UserError(
                f"the {name} features of {bad} of {len(x)} images are not finite, expected numbers: take "
                "an earlier checkpoint, another layer or float32"
            )
    return pairs["training"], pairs["test"]


def choose_best(held_out: dict[float, float]) -> float:
    """Return the value with the best held-out accuracy; the first of equals, never one that is nan.

    Raises:
      UserError: all are nan.
    """
    best = max(held_out, key=lambda value: np.nan_to_num(held_out[value], nan=-1))
    if np.isnan(held_out[best]):
        rates = ", ".join(f"{value:g}" for value in held_out)
        raise UserError(f"training diverged at every learning rate ({rates}): give lower ones")
    return best
