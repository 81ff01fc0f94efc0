"""What the probes take and give."""

from typing import NamedTuple

import numpy as np

from fastmim_jax.errors import UserError


class Result(NamedTuple):
    """What a probe found.

    accuracy: share of the test images that were told right, in [0, 1].
    told: what the probe was set to, for people, such as "penalty 0.01".
    chosen: the same as a number.
    tried: {setting: accuracy on the held-out training images}, nan where training diverged; empty where
      there was nothing to choose.
    """

    accuracy: float
    told: str
    chosen: float
    tried: dict


def check(train, test, classes):
    """The same pairs as arrays, looked through.

    Args:
      train, test: (features (N, D) of any real dtype, labels (N,) whole numbers in [0, classes)) each.

    Raises:
      UserError: shapes that do not fit, no images, labels out of range, features that are not finite.
    """
    pairs = {"training": tuple(map(np.asarray, train)), "test": tuple(map(np.asarray, test))}
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


def choose(tried):
    """The setting with the best held-out accuracy, of equals the first, never one that is nan.

    Raises:
      UserError: all are nan.
    """
    best = max(tried, key=lambda setting: np.nan_to_num(tried[setting], nan=-1))
    if np.isnan(tried[best]):
        shown = ", ".join(f"{setting:g}" for setting in tried)
        raise UserError(f"training diverged at every learning rate ({shown}): give lower ones")
    return best
