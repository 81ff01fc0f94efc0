"""Classify a data set: every image once, the last partial batch and the rows of other hosts included."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from fastmim_jax.errors import UserError
from fastmim_jax.train.inference import ClassifierStage
from fastmim_jax.train.steps import TOP


@dataclasses.dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions of a classifier for n images, in the order of the source; see `steps.classify_step`.

    Attributes:
      index: (n,) record numbers.
      label: (n,), -1 where there is none.
      best: (n, 5), likeliest classes first.
      probability: (n, 5) of these classes.
      rank: (n,), number of classes likelier than the true one.
      loss: (n,) cross-entropy.
      bad: number of further records that could not be decoded; they count nowhere.
    """

    index: np.ndarray
    label: np.ndarray
    best: np.ndarray
    probability: np.ndarray
    rank: np.ndarray
    loss: np.ndarray
    bad: int

    @property
    def top1(self) -> float:
        """Share of images whose likeliest class is the true one."""
        return float((self.rank < 1).mean())

    @property
    def top5(self) -> float:
        """Share of images whose true class is among the five likeliest."""
        return float((self.rank < TOP).mean())

    def confusion(self, classes: int) -> np.ndarray:
        """Return (K, K) counts: row the true class, column the likeliest."""
        counts = np.zeros((classes, classes), np.int64)
        np.add.at(counts, (self.label, self.best[:, 0]), 1)
        return counts


def classify(
    stage: ClassifierStage,
    variables: dict[str, Any],
    source: Any,
    records: np.ndarray | None = None,
    progress: Callable[[int], None] | None = None,
) -> Predictions:
    """Classify every image of a source.

    Args:
      stage: of fine-tuning, or of inference.
      variables: of its model, laid out as `stage.variables`.
      source, records, progress: see `InferenceStage.map_images`.

    Returns:
      Predictions, the same on all processes and for any number of devices.

    Raises:
      UserError: no image can be decoded.
    """
    columns, bad = stage.map_images(partial(stage.classify, variables), source, records, progress)
    if not len(columns["index"]):
        raise UserError(f"none of the {bad:,} images of {source!r} can be decoded: give others")
    return Predictions(**columns, bad=bad)
