"""Batches of images with masks: an endless augmented stream for training, one exact pass for evaluation.

Order, workers, threads and shared memory are those of `data.loader`: position p of the stream is always the
same record with the same crop, so that the number of records consumed is the only state to save.
"""

from collections.abc import Sequence

import numpy as np

from fastmim_jax.data.batch_memory import Arrays, Fields
from fastmim_jax.data.crops import Order, RandomOfPosition
from fastmim_jax.data.eval_batches import EvalBatches
from fastmim_jax.data.loader import Loader, read_in_chunks
from fastmim_jax.data.masks.augment import MAX_CLASS_SHARE, augment_pair, fit
from fastmim_jax.data.masks.base import IGNORE, MaskedImages


def training_pairs(
    masks: MaskedImages,
    *,
    size: tuple[int, int],
    batch_size: int,
    seed: int,
    records: np.ndarray | None = None,
    start: int = 0,
    rows: np.ndarray | None = None,
    workers: int = 0,
    threads: int = 4,
    max_worker_restarts: int = 3,
    scale: tuple[float, float] = (0.5, 2.0),
    max_class_share: float = MAX_CLASS_SHARE,
) -> Loader:
    """Iterate over augmented batches without end.

    Args:
      masks: see `open_masks`.
      size: (H, W) of a crop.
      batch_size, seed, start, rows, workers, threads, max_worker_restarts: see `loader.make_loader`.
      records: (n,) indices of the images to read; None for all.
      scale, max_class_share: see `augment_pair`.

    Returns:
      Loader, an iterator over dicts of numpy arrays, with b = len(rows): image (b, H, W, 3) uint8,
      mask (b, H, W) int32, index (b,) int64.

    Raises:
      MaskError, from next(): a mask that cannot be used.
    """
    records = np.arange(len(masks)) if records is None else records
    order_seed, crop_seed = map(int, np.random.SeedSequence(seed).generate_state(2))
    read = _RandomPairs(
        masks, records, Order(len(records), order_seed), size, crop_seed, scale, max_class_share
    )
    rows = np.arange(batch_size) if rows is None else rows
    options = dict(workers=workers, threads=threads, max_worker_restarts=max_worker_restarts)
    return Loader(read_in_chunks(read, batch_size, rows, start=start, **options))


def evaluation_pairs(
    masks: MaskedImages,
    *,
    size: tuple[int, int],
    batch_size: int,
    records: np.ndarray | None = None,
    rows: np.ndarray | None = None,
    workers: int = 0,
    threads: int = 4,
    max_worker_restarts: int = 3,
) -> EvalBatches:
    """Iterate over each image once, resized as a whole to one size, whatever its ratio of sides.

    Returns:
      EvalBatches, an iterator over dicts as those of `training_pairs`; rows that fill the last batch have
      black images, masks of IGNORE alone, and the index -1.
    """
    records = np.arange(len(masks)) if records is None else records
    rows = np.arange(batch_size) if rows is None else rows
    batches = -(-len(records) // batch_size)
    options = dict(workers=workers, threads=threads, max_worker_restarts=max_worker_restarts)
    read = _WholePairs(masks, records, size)
    return EvalBatches(read_in_chunks(read, batch_size, rows, batches=batches, **options), batches)


def _fields(size: tuple[int, int]) -> Fields:
    return {
        "image": ((*size, 3), np.dtype(np.uint8)),
        "mask": (size, np.dtype(np.int32)),
        "index": ((), np.dtype(np.int64)),
    }


class _RandomPairs:
    """Read positions of the endless stream; pickled to the workers."""

    def __init__(
        self,
        masks: MaskedImages,
        records: np.ndarray,
        order: Order,
        size: tuple[int, int],
        seed: int,
        scale: tuple[float, float],
        max_class_share: float,
    ):
        self.masks, self.records, self.order, self.size = masks, records, order, size
        self.seed, self.scale, self.max_class_share = seed, scale, max_class_share

    @property
    def fields(self) -> Fields:
        return _fields(self.size)

    def __call__(self, positions: Sequence[int], arrays: Arrays) -> None:
        random = RandomOfPosition(self.seed)
        for row, position in enumerate(positions):
            index = int(self.records[self.order(position)])
            item = self.masks.read(index)
            arrays["image"][row], arrays["mask"][row] = augment_pair(
                item.image, item.mask, self.size, random.at(position), self.scale, self.max_class_share
            )
            arrays["index"][row] = index


class _WholePairs:
    """Read positions of the pass, images or padding; pickled to the workers."""

    def __init__(self, masks: MaskedImages, records: np.ndarray, size: tuple[int, int]):
        self.masks, self.records, self.size = masks, records, size

    @property
    def fields(self) -> Fields:
        return _fields(self.size)

    def __call__(self, positions: Sequence[int], arrays: Arrays) -> None:
        for row, position in enumerate(positions):
            index = int(self.records[position]) if position < len(self.records) else -1
            arrays["index"][row] = index
            if index < 0:
                arrays["image"][row], arrays["mask"][row] = 0, IGNORE
            else:
                item = self.masks.read(index)
                arrays["image"][row], arrays["mask"][row] = fit(item.image, item.mask, self.size)
