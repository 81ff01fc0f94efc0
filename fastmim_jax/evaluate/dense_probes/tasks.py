"""Dense tasks: the loss, prediction and scores of a head's outputs for classes of pixels and for depth."""

import dataclasses
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fastmim_jax.data.masks.depths import STEP
from fastmim_jax.evaluate.segmentation.scores import confusion, scores

MIN_DEPTH = 1e-3  # metres


class Task(Protocol):
    """A dense task; instances are compared by value, so that programs are shared.

    main: name of the score that layers and learning rates are chosen by, the larger the better.
    """

    main: ClassVar[str]

    @property
    def outputs(self) -> int:
        """Return K, the number of outputs of a head."""

    def loss(self, raw: jax.Array, target: jax.Array) -> jax.Array:
        """Return the mean loss of (B, H, W, K) outputs of a head for (B, H, W) targets."""

    def predict(self, raw: jax.Array) -> jax.Array:
        """Return (...) predictions of (..., K) outputs of a head, such as (B, H, W)."""

    def count(self, predicted: jax.Array, target: jax.Array) -> jax.Array:
        """Return what `summarize` needs of (B, H, W) predictions; those of several batches are added."""

    def summarize(self, counts: np.ndarray) -> dict[str, float]:
        """Return the scores of a sum of counts by name."""


@dataclasses.dataclass(frozen=True)
class SegmentationTask:
    """A class for each pixel: softmax cross-entropy over the pixels with a label, and mIoU."""

    classes: int
    main: ClassVar[str] = "mIoU"

    @property
    def outputs(self) -> int:
        return self.classes

    def loss(self, raw: jax.Array, target: jax.Array) -> jax.Array:
        labelled = target >= 0
        losses = optax.softmax_cross_entropy_with_integer_labels(raw, target.clip(0))
        return (losses * labelled).sum() / labelled.sum().clip(1)

    def predict(self, raw: jax.Array) -> jax.Array:
        return raw.argmax(-1).astype(jnp.int32)

    def count(self, predicted: jax.Array, target: jax.Array) -> jax.Array:
        return confusion(predicted, target, self.classes)

    def summarize(self, counts: np.ndarray) -> dict[str, float]:
        found = scores(counts)
        return {"mIoU": found.miou, "pixels": found.pixel_accuracy, "classes": found.mean_class_accuracy}


@dataclasses.dataclass(frozen=True)
class DepthTask:
    """The depth of each pixel, up to a largest one: sigmoid outputs and the scale-invariant log loss.

    Masks hold steps of STEP, negative where the depth is unknown. Scores are means over images of
    means over pixels. Source: Eigen et al., arXiv 1406.2283; protocol of Pixio (arXiv 2512.15715).
    """

    largest: float  # metres
    main: ClassVar[str] = "d1"
    outputs: ClassVar[int] = 1

    def loss(self, raw: jax.Array, target: jax.Array) -> jax.Array:
        depth, known = self._metres(target)
        error = jnp.where(known, jnp.log(depth) - jnp.log(self.predict(raw)), 0.0)
        count = known.sum().clip(1)
        mean_square, mean = (error**2).sum() / count, error.sum() / count
        return jnp.sqrt((mean_square - 0.5 * mean**2).clip(1e-12))

    def predict(self, raw: jax.Array) -> jax.Array:
        return (jax.nn.sigmoid(raw[..., 0]) * self.largest).clip(MIN_DEPTH)

    def count(self, predicted: jax.Array, target: jax.Array) -> jax.Array:
        return depth_sums(predicted, *self._metres(target))

    def summarize(self, counts: np.ndarray) -> dict[str, float]:
        d1, rmse, abs_rel = counts[:3] / counts[3] if counts[3] else np.full(3, np.nan)
        return {"d1": float(d1), "rmse": float(rmse), "abs_rel": float(abs_rel)}

    def _metres(self, target: jax.Array) -> tuple[jax.Array, jax.Array]:
        """-> depths, and whether they are known and in range."""
        depth = target * STEP
        known = (depth >= MIN_DEPTH) & (depth <= self.largest)
        return jnp.where(known, depth, 1.0), known


def depth_sums(predicted: jax.Array, depth: jax.Array, known: jax.Array) -> jax.Array:
    """Return (4,): sums over images of d1, RMSE and AbsRel, and the number of images with known depths.

    d1 is the share of pixels whose ratio of depths, predicted and true, is below 1.25.

    Args:
      predicted, depth: (B, H, W) metres. known: (B, H, W) bool.
    """
    pixels = known.sum((1, 2))
    has_depth = pixels > 0

    def mean(values: jax.Array) -> jax.Array:
        return jnp.where(known, values, 0.0).sum((1, 2)) / pixels.clip(1)

    ratio = jnp.maximum(predicted / depth, depth / predicted)
    d1, square = mean((ratio < 1.25).astype(jnp.float32)), mean((predicted - depth) ** 2)
    columns = d1, jnp.sqrt(square), mean(abs(predicted - depth) / depth), jnp.ones_like(d1)
    return jnp.stack([jnp.where(has_depth, column, 0.0).sum() for column in columns])


def constant_counts(task: Task, constant: float, target: jax.Array | np.ndarray) -> jax.Array:
    """Return `Task.count` of a constant prediction for (B, H, W) targets."""
    dtype = jnp.float32 if isinstance(task, DepthTask) else jnp.int32
    return task.count(jnp.full(target.shape, constant, dtype), jnp.asarray(target))


def add_counts(total: Any, counts: Any) -> np.ndarray:
    """Return the sum of counts of batches, exact: int64 for integers, float64 for others."""
    counts = np.asarray(counts)
    wide = counts.astype(np.int64 if counts.dtype.kind in "iu" else np.float64)
    return wide if total is None else total + wide
