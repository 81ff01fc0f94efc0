"""The stream of a run of segmentation: that of `batches`, with unreadable images or masks replaced."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastmim_jax.data.batch_memory import Arrays, Fields
from fastmim_jax.data.crops import Order, RandomOfPosition
from fastmim_jax.data.decoder_messages import has_message
from fastmim_jax.data.limits import MAX_TRIES
from fastmim_jax.data.loader import Loader, check_stream, read_in_chunks
from fastmim_jax.data.masks.augment import augment_pair
from fastmim_jax.data.masks.base import IGNORE, MaskedFiles, MaskedImage
from fastmim_jax.data.masks.problems import MaskError
from fastmim_jax.data.replacements import candidates

MASK_DTYPE = np.dtype(np.int16)  # of masks on their way to the devices


class MaskCrops:
    """Read positions of an endless stream as augmented crops; pickled to the workers with the source."""

    def __init__(
        self,
        source: MaskedFiles,
        order: Callable[[int], int],
        *,
        size: tuple[int, int],
        seed: int,
        scale: tuple[float, float],
        max_class_share: float,
        photometric: float,
    ):
        """Args:
        source: images with masks.
        order: position of the stream -> record.
        size: (H, W) of a crop.
        seed, scale, max_class_share, photometric: see `augment_pair`.
        """
        self.source, self.order, self.size = source, order, size
        self.seed = seed
        self.options: dict[str, Any] = dict(
            scale=scale, max_class_share=max_class_share, photometric=photometric
        )

    @property
    def fields(self) -> Fields:
        """Shape and dtype of a row of every array, see `make_mask_loader`."""
        return {
            "image": ((*self.size, 3), np.dtype(np.uint8)),
            "mask": (self.size, MASK_DTYPE),
            "index": ((), np.dtype(np.int64)),
            "num_undecodable": ((), np.dtype(np.int32)),
            "doubtful": ((), np.dtype(bool)),
            "label": ((), np.dtype(np.int32)),
        }

    def __call__(self, positions: Sequence[int], arrays: Arrays) -> None:
        """Write the rows of ascending positions."""
        random = RandomOfPosition(self.seed)
        for row, position in enumerate(positions):
            index = int(self.order(position))
            skipped, found = self._read(index)
            arrays["doubtful"][row] = found is not None and has_message()
            arrays["index"][row], arrays["num_undecodable"][row], arrays["label"][row] = index, skipped, -1
            if found is None:
                arrays["image"][row], arrays["mask"][row] = 0, IGNORE
                continue
            arrays["image"][row], arrays["mask"][row] = augment_pair(
                found.image, found.mask, self.size, random.at(position), **self.options
            )

    def _read(self, index: int) -> tuple[int, MaskedImage | None]:
        """Return the first of `candidates` that can be read, and the number of those before it."""
        skipped = 0
        for used in candidates(self.source, index, MAX_TRIES):
            try:
                return skipped, self.source.read(used)
            except MaskError:
                skipped += 1
        return skipped, None


def make_mask_loader(
    source: MaskedFiles,
    *,
    size: tuple[int, int],
    batch_size: int,
    seed: int,
    scale: tuple[float, float],
    max_class_share: float,
    photometric: float,
    start: int = 0,
    rows: np.ndarray,
    workers: int = 0,
    threads: int = 4,
    max_worker_restarts: int = 3,
) -> Loader:
    """Iterate over batches of augmented crops without end.

    Args:
      source: images with masks.
      size: (H, W) of a crop.
      batch_size, seed, start, rows, workers, threads, max_worker_restarts: see `loader.make_loader`.
      scale, max_class_share, photometric: see `augment_pair`.

    Returns:
      Loader, an iterator over dicts of numpy arrays, with b = len(rows):
        image (b, H, W, 3) uint8;
        mask (b, H, W) int16, IGNORE where there is no label;
        index, num_undecodable, doubtful, label: see `loader.make_loader`; label is -1.

    Raises:
      UserError: an empty source.
      ValueError: an argument out of range.
    """
    check_stream(source, batch_size, rows, seed=seed, start=start)
    order_seed, crop_seed = map(int, np.random.SeedSequence(seed).generate_state(2))
    crops = MaskCrops(
        source,
        Order(len(source), order_seed),
        size=size,
        seed=crop_seed,
        scale=scale,
        max_class_share=max_class_share,
        photometric=photometric,
    )
    resources = dict(workers=workers, threads=threads, max_worker_restarts=max_worker_restarts)
    return Loader(read_in_chunks(crops, batch_size, rows, start=start, **resources))
