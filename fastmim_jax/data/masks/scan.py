"""One pass over all masks of a data set: problems counted, and the pixels of every class."""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np

from fastmim_jax.data.masks.base import MaskedFiles
from fastmim_jax.data.masks.problems import MaskError, describe_problems
from fastmim_jax.errors import UserError

Result = TypeVar("Result")
MAX_THREADS = 16


class MaskScan(NamedTuple):
    """The masks of a data set.

    pixels: (K,) int64 of each class. ignored: pixels without a label. largest: (H, W) that holds each.
    """

    pixels: np.ndarray
    ignored: int
    largest: tuple[int, int]


def map_pairs(
    function: Callable[[int], Result], indices: Iterable[int], threads: int = 0
) -> tuple[list[Result], list[MaskError]]:
    """Apply a function to indices in threads -> its results in order, and the MaskErrors that it raised.

    Args:
      threads: 0 for one per core, at most MAX_THREADS.
    """

    def attempt(index: int) -> Result | MaskError:
        try:
            return function(index)
        except MaskError as error:
            return error

    results: list[Result] = []
    problems: list[MaskError] = []
    with ThreadPoolExecutor(threads or min(MAX_THREADS, os.cpu_count() or 1)) as pool:
        for outcome in pool.map(attempt, indices):
            if isinstance(outcome, MaskError):
                problems.append(outcome)
            else:
                results.append(outcome)
    return results, problems


def scan_masks(
    masks: MaskedFiles, records: Sequence[int] | np.ndarray | None = None, threads: int = 0
) -> MaskScan:
    """Read the masks and the headers of the images of a data set; images are not decoded.

    Args:
      records: (n,) indices, None for all.

    Raises:
      UserError: masks that cannot be used; all are counted by kind, with the first files of each.
    """
    classes = len(masks.class_names)

    def count(index: int) -> tuple[np.ndarray, tuple[int, int]]:
        mask = masks.check(index)
        return np.bincount(mask.ravel() + 1, minlength=classes + 1), (mask.shape[0], mask.shape[1])

    indices = range(len(masks)) if records is None else [int(record) for record in records]
    results, problems = map_pairs(count, indices, threads)
    if problems:
        raise UserError(describe_problems(masks.path, len(indices), problems))
    counts = sum((pixels for pixels, _ in results), np.zeros(classes + 1, np.int64))
    height, width = np.max([size for _, size in results], axis=0)
    return MaskScan(counts[1:], int(counts[0]), (int(height), int(width)))
