"""One exact pass over a source for evaluation: every record once, in order, none replaced.

Reading, batching and workers are those of loader.py; only the mapping of records to crops differs.
"""

from collections.abc import Sequence

import numpy as np

from fastmim_jax.data.augment import center_crop
from fastmim_jax.data.clipped import FIELD, ROW_FIELD, as_row, counts_values
from fastmim_jax.data.decode import DEFAULT_RULES, read_image
from fastmim_jax.data.decoder_messages import has_message
from fastmim_jax.data.limits import DecodeError, DecodeRules
from fastmim_jax.data.loader import Loader, check_stream, read_in_chunks
from fastmim_jax.data.sources import Source
from fastmim_jax.data.values import ValueCounts
from fastmim_jax.errors import UserError


def make_eval_batches(
    source: Source,
    *,
    image_size: tuple[int, int],
    channels: int,
    batch_size: int,
    resize: int | None = None,
    rows: np.ndarray | Sequence[int] | None = None,
    workers: int = 0,
    threads: int = 4,
    max_worker_restarts: int = 3,
    records: np.ndarray | Sequence[int] | None = None,
    count: int | None = None,
    rules: DecodeRules = DEFAULT_RULES,
) -> "EvalBatches":
    """Iterate over centre crops of each record once, in ceil(n / batch_size) batches, the last one padded.

    Args:
      source: see `fastmim_jax.data.sources.Source`.
      image_size: (H, W) of a crop.
      channels: C, see `decode`.
      batch_size: size of the global batch, over all processes.
      resize: short side before the crop in pixels, see `center_crop`.
      rows: ascending positions inside the global batch that this process feeds; None for all.
      workers, threads, max_worker_restarts: see `make_loader`.
      records: (n,) indices of the records to read, in this order; None for all.
      count: read only the first `count` of them; None for all.
      rules: see `decode`.

    Returns:
      EvalBatches, an iterator over dicts of numpy arrays, with b = len(rows):
        image (b, H, W, C) of `rules.pixel_dtype`, 0 where not valid;
        label (b,) int32, -1 where not valid or unlabelled;
        index (b,) int64, index of the record in the source, -1 on padding;
        valid (b,) bool, False on padding and on records that cannot be decoded;
        undecodable (b,) bool, True for records that cannot be decoded;
        doubtful (b,) bool, True where the decoder had a message, such as on a damaged file;
        value_counts (b, 6) float64, only for images of more than 8 bits, see `clipped`.

    Raises:
      UserError: no records.
      ValueError: an argument out of range.
    """
    records = range(len(source)) if records is None else _checked_records(records, len(source))
    records = records[:count]
    rows = np.arange(batch_size) if rows is None else np.asarray(rows, np.int64)
    check_stream(source, batch_size, rows)
    if not len(records) or (count is not None and count < 1):
        raise UserError(f"No record of {source!r} is chosen for evaluation; expected at least one.")
    if resize is not None and resize < min(image_size):
        raise ValueError(f"resize={resize} is smaller than the crop, expected at least {min(image_size)}")
    batches = -(-len(records) // batch_size)
    crop = _CenterCrops(source, records, tuple(image_size), channels, resize, rules)
    chunks = read_in_chunks(
        crop,
        batch_size,
        rows,
        workers=workers,
        threads=threads,
        max_worker_restarts=max_worker_restarts,
        batches=batches,
    )
    return EvalBatches(chunks, batches)


class EvalBatches(Loader):
    """A Loader that ends after one pass; len() is its number of batches."""

    def __init__(self, chunks, batches):
        super().__init__(chunks)
        self._batches, self._taken = batches, 0

    def __len__(self):
        return self._batches

    def __next__(self):
        if self._taken == self._batches:
            self.close()
            raise StopIteration
        batch = super().__next__()
        self._taken += 1
        return batch


class _CenterCrops:
    """Read positions of the pass, records or padding; pickled to the workers with the source."""

    def __init__(self, source, records, size, channels, resize, rules):
        self.source, self.records, self.rules = source, records, rules
        self.size, self.channels, self.resize = size, channels, resize

    @property
    def fields(self):
        return {
            "image": ((*self.size, self.channels), self.rules.pixel_dtype),
            "label": ((), np.dtype(np.int32)),
            "index": ((), np.dtype(np.int64)),
            "valid": ((), np.dtype(bool)),
            "undecodable": ((), np.dtype(bool)),
            "doubtful": ((), np.dtype(bool)),
            **({FIELD: ROW_FIELD} if counts_values(self.rules) else {}),
        }

    def __call__(self, positions, arrays):
        for row, position in enumerate(positions):
            index = int(self.records[position]) if position < len(self.records) else -1
            counts = ValueCounts()
            image = None if index < 0 else self._decode(index, counts)
            arrays["doubtful"][row] = image is not None and has_message()
            if FIELD in arrays:
                arrays[FIELD][row] = as_row(ValueCounts() if image is None else counts)
            if image is None:
                arrays["image"][row] = 0
            else:
                center_crop(image, self.size, self.resize, arrays["image"][row])
            arrays["label"][row] = -1 if image is None else self.source.label(index)
            arrays["index"][row], arrays["valid"][row] = index, image is not None
            arrays["undecodable"][row] = image is None and index >= 0

    def _decode(self, index, counts):
        counted = counts if counts_values(self.rules) else None
        try:
            return read_image(self.source, index, self.channels, self.rules, counted)
        except DecodeError:
            return None


def _checked_records(records, total):
    records = np.asarray(records)
    if records.ndim != 1 or (len(records) and records.dtype.kind not in "iu"):
        raise ValueError(f"records: {records.dtype} of shape {records.shape}, expected (n,) integers")
    if len(records) and not 0 <= records.min() <= records.max() < total:
        raise ValueError(f"records from {records.min()} to {records.max()}, expected 0 to {total - 1}")
    return records
