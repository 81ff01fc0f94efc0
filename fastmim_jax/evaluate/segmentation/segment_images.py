"""Segment images of any size with a model of crops, and count the confusion of a data set exactly.

Every process takes every P-th image and uses its own devices; confusion matrices are summed in the end, so
that each image counts once, whatever the number of processes and devices.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fastmim_jax.data.masks import IGNORE, MaskedImage, MaskError
from fastmim_jax.errors import UserError
from fastmim_jax.evaluate.segmentation.scores import confusion
from fastmim_jax.evaluate.segmentation.window_batches import (
    WindowedImage,
    map_windows,
    of_all_processes,
    own_records,
)
from fastmim_jax.evaluate.segmentation.windows import (
    WindowPlan,
    join_windows,
    pad_mask,
    plan_windows,
    window_grid,
)
from fastmim_jax.train import sharding
from fastmim_jax.train.segmenter_stage import SegmenterStage

_LOG = logging.getLogger("fastmim_jax.data")


class Segmented(NamedTuple):
    """An image with its prediction.

    record: its number. image: with its mask. labels: (H, W) int32, the likeliest class of each pixel.
    counts: (K, K) of `confusion` of the image.
    """

    record: int
    image: MaskedImage
    labels: np.ndarray
    counts: np.ndarray


class SegmentationResult(NamedTuple):
    """The evaluation of a data set.

    confusion: (K, K) int64, over all images: row the true class, column the predicted one.
    images: number of them. unreadable: (name, reason) of those that could not be read.
    """

    confusion: np.ndarray
    images: int
    unreadable: list[tuple[str, str]]


def evaluate_segmentation(
    stage: SegmenterStage,
    variables: Any,
    source: Any,
    each: Callable[[Segmented], None] = lambda found: None,
    progress: Callable[[int], None] | None = None,
) -> SegmentationResult:
    """Segment every image of a source and compare it with its mask.

    Args:
      stage: of the devices of this process.
      variables: of the model on these devices, see `sharding.localize`.
      source: images with masks.
      each: called with each image of this process.
      progress: called with the number of images done.

    Returns:
      The same on all processes.

    Raises:
      UserError: no image can be read.
      GivenUp: see `agreement.begin_unit`.
    """
    classes = len(stage.classes)
    total, images = np.zeros((classes, classes), np.int64), 0
    unreadable: list[tuple[str, str]] = []
    records, rounds = own_records(range(len(source)))
    for done, found in enumerate(segment_images(stage, variables, source, records, rounds), 1):
        if isinstance(found, MaskError):
            unreadable.append((found.name, f"{found.kind}: {found.detail}"))
        elif found is not None:
            total += found.counts
            images += 1
            each(found)
        if progress:
            progress(min(done * jax.process_count(), len(source)))
    parts = of_all_processes("segmentation", [total.ravel().tolist(), images, unreadable])
    total = np.array([part[0] for part in parts], np.int64).sum(0).reshape(classes, classes)
    images = sum(part[1] for part in parts)
    unreadable = [(name, reason) for part in parts for name, reason in part[2]]
    if unreadable:
        name, reason = unreadable[0]
        _LOG.warning(
            f"{source!r}: {len(unreadable):,} of {len(source):,} images count nowhere, as image or mask "
            f"cannot be used, such as {name} ({reason})"
        )
    if not images:
        raise UserError(f"none of the images of {source!r} can be read: give others")
    return SegmentationResult(total, images, unreadable)


def segment_images(
    stage: SegmenterStage,
    variables: Any,
    source: Any,
    records: Sequence[int] | np.ndarray,
    rounds: int | None = None,
) -> Iterator[Segmented | MaskError | None]:
    """Yield each record segmented, in order; a MaskError for one that cannot be read.

    Args:
      stage, variables, source: see `evaluate_segmentation`.
      records: numbers of the records.
      rounds: of the process with most records; a process with fewer yields None in the last.
    """

    def logits(windows: np.ndarray) -> jax.Array:
        on_devices = jax.device_put(windows, sharding.batch_sharding(stage.mesh))
        return stage.logits(variables, on_devices)

    found = map_windows(
        *(logits, source, records, partial(plan_of, stage)),
        batch_size=stage.eval_batch_size,
        threads=stage.reader.threads,
        rounds=rounds,
    )
    for image in found:
        yield _classify(image) if isinstance(image, WindowedImage) else image


def plan_of(stage: SegmenterStage, image: tuple[int, int]) -> WindowPlan:
    """Return the windows of an image (H, W), as the config of the stage says."""
    data = stage.config.data
    return plan_windows(
        image,
        stage.reader.image_size,
        mode=data.eval_mode,
        short_side=data.eval_resize,
        stride=tuple(data.eval_stride) or None,
    )


def likeliest(logits: jax.Array) -> jax.Array:
    """Return (...) int32, the likeliest class of (..., K) logits."""
    return logits.argmax(-1).astype(jnp.int32)


def _classify(found: WindowedImage) -> Segmented:
    height, width = found.plan.image
    labels = join_windows(window_grid(found.outputs, found.plan), likeliest)
    counts = confusion(labels, pad_mask(found.image.mask, IGNORE), found.outputs.shape[-1])
    return Segmented(found.record, found.image, np.asarray(labels)[:height, :width], np.asarray(counts))
