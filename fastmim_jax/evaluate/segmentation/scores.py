"""Confusion matrices of pixels on the device, and the scores of a confusion matrix: mIoU and others."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike


class SegmentationScores(NamedTuple):
    """Scores of a segmentation with K classes, over all pixels with a label at once.

    Attributes:
      miou: mean of `iou` over the classes that have one.
      iou: (K,) intersection over union; nan for a class that neither the truth nor the prediction has.
      pixel_accuracy: share of the pixels predicted correctly.
      class_accuracy: (K,) share of the pixels of a class predicted correctly; nan where it has no pixels.
      frequencies: (K,) share of the pixels that are of a class.
    """

    miou: float
    iou: np.ndarray
    pixel_accuracy: float
    class_accuracy: np.ndarray
    frequencies: np.ndarray

    @property
    def mean_class_accuracy(self) -> float:
        """Mean of `class_accuracy` over the classes that have pixels."""
        return _nanmean(self.class_accuracy)


@partial(jax.jit, static_argnames="classes")
def confusion(predicted: ArrayLike, mask: ArrayLike, classes: int) -> jax.Array:
    """Return (K, K) int32 counts of pixels: row the true class, column the predicted one.

    Pixels whose true or predicted class is not in [0, K), such as IGNORE, count nowhere. Counts are exact
    for fewer than 2**31 pixels at a time: sum those of several batches as int64 on the host.

    Args:
      predicted, mask: integers of one shape, such as (B, H, W).
      classes: K.
    """
    predicted, mask = jnp.asarray(predicted).ravel(), jnp.asarray(mask).ravel()
    counted = (mask >= 0) & (mask < classes) & (predicted >= 0) & (predicted < classes)
    cell = jnp.where(counted, mask * classes + predicted, classes * classes)  # the last: counted nowhere
    counts = jnp.zeros(classes * classes + 1, jnp.int32).at[cell].add(1)
    return counts[:-1].reshape(classes, classes)


def scores(confusion: np.ndarray) -> SegmentationScores:
    """Return the scores of a (K, K) confusion matrix: row the true class, column the predicted one."""
    counts = np.asarray(confusion, np.int64)
    hits, true, predicted = np.diag(counts), counts.sum(1), counts.sum(0)
    total = int(true.sum())
    iou = _divide(hits, true + predicted - hits)
    return SegmentationScores(
        miou=_nanmean(iou),
        iou=iou,
        pixel_accuracy=int(hits.sum()) / total if total else float("nan"),
        class_accuracy=_divide(hits, true),
        frequencies=true / max(total, 1),
    )


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """-> the quotients, nan where the denominator is 0."""
    quotients = np.full(len(numerator), np.nan)
    return np.divide(numerator, denominator, out=quotients, where=denominator > 0)


def _nanmean(values: np.ndarray) -> float:
    found = values[~np.isnan(values)]
    return float(found.mean()) if len(found) else float("nan")
