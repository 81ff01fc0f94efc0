"""Segment images of any size with a model of crops, and count the confusion of a data set exactly.

Every process takes every P-th image and uses its own devices; confusion matrices are summed in the end, so
that each image counts once, whatever the number of processes and devices.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fastmim_jax.data.masks import IGNORE, MaskedImage, MaskError
from fastmim_jax.data.masks.augment import fit
from fastmim_jax.errors import UserError
from fastmim_jax.evaluate.segmentation.scores import confusion
from fastmim_jax.evaluate.segmentation.windows import (
    WindowPlan,
    axis_matrices,
    cut_windows,
    plan_windows,
)
from fastmim_jax.train import sharding
from fastmim_jax.train.agreement import begin_unit
from fastmim_jax.train.peers import current_peers
from fastmim_jax.train.segmenter_stage import SegmenterStage

STRIP = 64  # rows of an image whose classes are found at once; sides are padded to multiples of it
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
      variables: of the model on these devices, see `SegmenterStage.localize`.
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
    process, processes = jax.process_index(), jax.process_count()
    records = range(process, len(source), processes)
    rounds = -(-len(source) // processes)
    for done, found in enumerate(segment_images(stage, variables, source, records, rounds), 1):
        if isinstance(found, MaskError):
            unreadable.append((found.name, f"{found.kind}: {found.detail}"))
        elif found is not None:
            total += found.counts
            images += 1
            each(found)
        if progress:
            progress(min(done * processes, len(source)))
    peers = current_peers()
    if peers is not None:
        parts = peers.share("segmentation", [total.ravel().tolist(), images, unreadable])
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
    stage: SegmenterStage, variables: Any, source: Any, records: Sequence[int], rounds: int | None = None
) -> Iterator[Segmented | MaskError | None]:
    """Yield each record segmented, in order; a MaskError for one that cannot be read.

    Args:
      stage, variables, source: see `evaluate_segmentation`.
      records: numbers of the records.
      rounds: of the process with most records; a process with fewer yields None in the last.
    """
    queue = _Windows(stage, variables)
    for number, read in enumerate(_read_ahead(stage, source, records)):
        begin_unit()
        yield from queue.add(number, read)
    for _ in range(len(records), rounds or 0):
        begin_unit()
        yield None
    yield from queue.finish()


def _read_ahead(stage: SegmenterStage, source: Any, records: Sequence[int]) -> Iterator[Any]:
    """Yield (record, MaskedImage, plan, windows) of each record, or a MaskError, read by threads."""
    threads = max(1, stage.reader.threads)

    def read(index: int) -> Any:
        try:
            image = source.read(index)
        except MaskError as error:
            return error
        plan = plan_of(stage, image.mask.shape)
        pixels, _ = fit(image.image, image.mask, plan.scaled)
        return index, image, plan, cut_windows(pixels, plan)

    with ThreadPoolExecutor(threads) as pool:
        waiting = [pool.submit(read, index) for index in records[:threads]]
        for position in range(len(records)):
            ready = waiting.pop(0).result()
            following = records[position + threads : position + threads + 1]
            waiting += [pool.submit(read, index) for index in following]
            yield ready


def plan_of(stage: SegmenterStage, image: tuple[int, ...]) -> WindowPlan:
    """Return the windows of an image (H, W), as the config of the stage says."""
    data = stage.config.data
    return plan_windows(
        (image[0], image[1]),
        stage.reader.image_size,
        mode=data.eval_mode,
        short_side=data.eval_resize,
        stride=tuple(data.eval_stride) or None,
    )


class _Windows:
    """Windows of several images in full batches; images come out in order, when theirs are done."""

    def __init__(self, stage: SegmenterStage, variables: Any):
        self._stage, self._variables = stage, variables
        self._images: list[Any] = []  # (record, image, plan) or MaskError, waiting
        self._windows: list[np.ndarray] = []  # that no logits were computed of
        self._logits: list[np.ndarray] = []  # of windows of the images waiting

    def add(self, number: int, read: Any) -> Iterator[Segmented | MaskError]:
        """Add an image, and yield those that are done."""
        if isinstance(read, MaskError):
            self._images.append(read)
        else:
            *facts, windows = read
            self._images.append(facts)
            self._windows += list(windows)
        while len(self._windows) >= self._stage.eval_batch_size:
            self._compute()
        yield from self._done()

    def finish(self) -> Iterator[Segmented | MaskError]:
        """Yield the images that are left."""
        while self._windows:
            self._compute()
        yield from self._done()

    def _compute(self) -> None:
        size = self._stage.eval_batch_size
        batch, self._windows = self._windows[:size], self._windows[size:]
        padded = np.zeros((size, *batch[0].shape), batch[0].dtype)
        padded[: len(batch)] = batch
        on_devices = jax.device_put(padded, sharding.batch_sharding(self._stage.mesh))
        logits = np.asarray(self._stage.logits(self._variables, on_devices))
        self._logits += list(logits[: len(batch)])

    def _done(self) -> Iterator[Segmented | MaskError]:
        while self._images:
            first = self._images[0]
            if isinstance(first, MaskError):
                yield self._images.pop(0)
                continue
            index, image, plan = first
            count = len(plan.starts)
            if len(self._logits) < count:
                return
            self._images.pop(0)
            logits, self._logits = np.stack(self._logits[:count]), self._logits[count:]
            yield _classify(index, image, plan, logits)


def _classify(index: int, image: MaskedImage, plan: WindowPlan, logits: np.ndarray) -> Segmented:
    (height, width), (_, h, w, classes) = plan.image, logits.shape
    grid = logits.reshape(len(plan.rows), len(plan.columns), h, w, classes)
    rows = axis_matrices(height, plan.scaled[0], plan.crop[0], plan.rows, h)
    columns = axis_matrices(width, plan.scaled[1], plan.crop[1], plan.columns, w)
    full = -(-height // STRIP) * STRIP, -(-width // STRIP) * STRIP
    mask = np.full(full, IGNORE, np.int32)
    mask[:height, :width] = image.mask
    labels, counts = _likeliest(grid, _pad(rows, full[0]), _pad(columns, full[1]), mask)
    return Segmented(index, image, np.asarray(labels)[:height, :width], np.asarray(counts))


def _pad(matrices: np.ndarray, size: int) -> np.ndarray:
    """Return matrices (n, p, c) as float32 (n, size, c): padded sizes share a compiled program."""
    return np.pad(matrices, ((0, 0), (0, size - matrices.shape[1]), (0, 0))).astype(np.float32)


@jax.jit
def _likeliest(
    logits: jax.Array, rows: jax.Array, columns: jax.Array, mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return the likeliest class of every pixel (H, W), and the confusion (K, K) with the mask.

    Args:
      logits: (r, c, h, w, K) of a grid of windows. rows: (r, H, h). columns: (c, W, w).
      mask: (H, W).
    """
    product = partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    wide = product("rchwk,cWw->rhWk", logits, columns)
    strips = rows.reshape(len(rows), -1, STRIP, rows.shape[2]).swapaxes(0, 1)

    def strip(rows: jax.Array) -> jax.Array:  # a strip at a time: logits of a whole image take much memory
        return product("rHh,rhWk->HWk", rows, wide).argmax(-1).astype(jnp.int32)

    labels = jax.lax.map(strip, strips).reshape(mask.shape)
    return labels, confusion(labels, mask, logits.shape[-1])
