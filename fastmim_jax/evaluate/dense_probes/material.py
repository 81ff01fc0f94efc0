"""The images of a dense probe: some to train on, some to choose by, and some to test on."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastmim_jax.data.masks import mask_evaluation_split, open_masks
from fastmim_jax.data.masks.base import MaskedFiles
from fastmim_jax.data.masks.depths import STEP, depth_evaluation_split, open_depths
from fastmim_jax.data.masks.problems import describe_problems
from fastmim_jax.data.masks.scan import map_pairs, scan_masks
from fastmim_jax.errors import UserError
from fastmim_jax.evaluate.dense_probes.tasks import MIN_DEPTH, DepthTask, SegmentationTask, Task
from fastmim_jax.evaluate.probes.folds import HELD_OUT_FOLDS, held_out
from fastmim_jax.train.first_process import of_first_process


class DenseImages(NamedTuple):
    """Images of a dense probe.

    Attributes:
      train: with `fit` (n,) indices to train on, and `chosen_by` (m,), those to choose settings by.
      test: with `tested` (k,) indices.
    """

    train: MaskedFiles
    fit: np.ndarray
    chosen_by: np.ndarray
    test: MaskedFiles
    tested: np.ndarray

    def describe(self) -> str:
        """Return one sentence on the images."""
        return (
            f"{len(self.fit):,} images of {self.train!r} to train on, {len(self.chosen_by):,} to choose "
            f"the layer and the learning rate by, tested on {len(self.tested):,} of {self.test!r}"
        )


class DenseMaterial(NamedTuple):
    """A task with its images.

    Attributes:
      task: see `Task`.
      images: see `DenseImages`.
      constant: prediction of a baseline that sees no image: the most frequent class, or the median depth.
      baseline: its name.
    """

    task: Task
    images: DenseImages
    constant: float
    baseline: str


def open_segmentation(
    path: str, test: str | None, count: int, *, legend: str = "", seed: int = 0
) -> DenseMaterial:
    """Open images with masks, and read all masks once.

    Args:
      path, legend: see `open_masks`.
      test: others to test on; None for the val or test split of `path`, or where it has none for a fifth.
      count: images at most, of training and of test data each, drawn at random.

    Raises:
      UserError: see `open_masks` and `scan_masks`; fewer than two classes, or too few images.
    """

    def open_split(where: str, split: str, classes: Any = None) -> MaskedFiles:
        return open_masks(where, split=split, legend=legend if where == path else "", classes=classes)

    images = _divide(path, test, count, seed, open_split, mask_evaluation_split)
    names = images.train.class_names
    if len(names) < 2:
        raise UserError(f"{images.train!r}, expected at least 2 classes: give other masks")

    def pixels() -> list[int]:
        scan_masks(images.test, images.tested)
        return scan_masks(images.train, np.union1d(images.fit, images.chosen_by)).pixels.tolist()

    majority = int(np.argmax(of_first_process(pixels)))
    task = SegmentationTask(len(names))
    return DenseMaterial(task, images, majority, f"always {names[majority]}")


def open_depth(path: str, test: str | None, count: int, *, unit: float, seed: int = 0) -> DenseMaterial:
    """Open images with depths, and read all depths once.

    Args:
      unit: see `open_depths`. test, count: see `open_segmentation`.

    Raises:
      UserError: see `open_depths`; depth images that cannot be used, or no known depth.
    """

    def open_split(where: str, split: str, classes: Any = None) -> MaskedFiles:
        del classes
        return open_depths(where, split=split, unit=unit)

    images = _divide(path, test, count, seed, open_split, depth_evaluation_split)

    def depths() -> list[float]:
        _check_depths(images.test, images.tested)
        found = _check_depths(images.train, np.union1d(images.fit, images.chosen_by))
        return [
            float(max(largest for _, largest in found)),
            float(np.median([median for median, _ in found])),
        ]

    largest, median = of_first_process(depths)
    if largest < MIN_DEPTH:
        raise UserError(f"{images.train!r}: no known depth; expected values above 0 in units of {unit} m")
    return DenseMaterial(DepthTask(largest), images, median, f"always {median:.2f} m")


def _check_depths(depths: MaskedFiles, records: np.ndarray) -> list[tuple[float, float]]:
    """-> (median, largest) depth in metres of each image with known depths; raises UserError."""

    def measure(index: int) -> tuple[float, float]:
        steps = depths.check(index)
        known = steps[steps > 0] * STEP
        return (float(np.median(known)), float(known.max())) if len(known) else (np.nan, 0.0)

    results, problems = map_pairs(measure, [int(record) for record in records])
    if problems:
        raise UserError(describe_problems(depths.path, len(records), problems))
    return [pair for pair in results if pair[1] > 0] or [(0.0, 0.0)]


def _divide(
    path: str,
    test: str | None,
    count: int,
    seed: int,
    open_split: Callable[..., MaskedFiles],
    evaluation_split: Callable[[str], str | None],
) -> DenseImages:
    train = open_split(path, "train")
    records = _sample(len(train), count, seed)
    where, split = (test, evaluation_split(test)) if test else (path, evaluation_split(path))
    if test or split:
        other = open_split(where, split or "train", train.class_names or None)
        tested = _sample(len(other), count, seed)
    else:
        _check_number(train, records)
        out = held_out(np.zeros(len(records), int), seed + 1)
        other, tested, records = train, records[out], records[~out]
    _check_number(train, records)
    out = held_out(np.zeros(len(records), int), seed)
    return DenseImages(train, records[~out], records[out], other, tested)


def _check_number(train: MaskedFiles, records: np.ndarray) -> None:
    if len(records) < HELD_OUT_FOLDS:
        raise UserError(
            f"{train!r}: {len(records)} images are too few to train on and to choose by; expected at least "
            f"{HELD_OUT_FOLDS}, more for a score that means something"
        )


def _sample(total: int, count: int, seed: int) -> np.ndarray:
    """-> (n,) ascending record numbers, `count` of `total` at random, or all."""
    return np.sort(np.random.default_rng(seed).permutation(total)[:count])
