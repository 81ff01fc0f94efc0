"""One exact pass over a source, for evaluation: every record once, in order, nothing replaced.

It runs on the machinery of loader.py; only what is made of a position of the stream differs.
"""

import grain
import numpy as np

from fastmim_jax.data.augment import center_crop
from fastmim_jax.data.decode import DecodeError, read_image
from fastmim_jax.data.loader import Loader, check, in_chunks
from fastmim_jax.errors import UserError


def make_eval_batches(
    source,
    *,
    image_size,
    channels,
    batch_size,
    resize=None,
    rows=None,
    workers=0,
    threads=4,
    records=None,
    count=None,
):
    """Centre crops of each record once, in ceil(n / batch_size) batches, the last one padded.

    Args:
      source: see sources.py.
      image_size: (H, W) of a crop.
      channels: C, see decode.decode.
      batch_size: of the global batch, over all processes.
      resize: short side before the cut, pixels; see augment.center_crop.
      rows: ascending positions inside the global batch that this process feeds; None for all.
      workers, threads: see loader.make_loader.
      records: (n,) integers, which records to pass over and in which order; None for all.
      count: ends the pass after this many of them; None for all.

    Returns:
      Pass, an iterator over dicts of numpy arrays, with b = len(rows):
        image (b, H, W, C) uint8, 0 where not valid;
        label (b,) int32, -1 where there is none or not valid;
        index (b,) int64, the record's number in the source, -1 on padding;
        valid (b,) bool, False on padding and on records that cannot be decoded;
        bad (b,) bool, True for records that cannot be decoded.

    Raises:
      UserError: no records, a `resize` below the short side of a crop, or numbers that make no
        batches.
      ValueError: `records` that are no numbers of records.
    """
    records = range(len(source)) if records is None else _checked_records(records, len(source))
    records = records[:count]
    rows = np.arange(batch_size) if rows is None else np.asarray(rows, np.int64)
    check(source, batch_size, rows)
    if not len(records) or (count is not None and count < 1):
        raise UserError(f"No record of {source!r} is left to pass over; expected at least one.")
    if resize is not None and resize < min(image_size):
        raise UserError(
            f"resize={resize}: expected the short side before the centre crop to be at least that "
            f"of the crop, {min(image_size)}."
        )
    batches = -(-len(records) // batch_size)
    crop = _CenterCrop(source, records, tuple(image_size), channels, resize)
    stream = grain.MapDataset.range(batches * batch_size).map(crop)
    return EvalBatches(*in_chunks(stream, batch_size, rows, workers=workers, threads=threads), batches)


class EvalBatches(Loader):
    """A Loader that ends; len() is the number of batches of the whole pass."""

    def __init__(self, stream, chunks, batches):
        super().__init__(stream, chunks)
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


class _CenterCrop:
    """position in the pass -> one record, or padding. Pickled into the workers, source included."""

    def __init__(self, source, records, size, channels, resize):
        self.source, self.records = source, records
        self.size, self.channels, self.resize = size, channels, resize

    def __call__(self, position):
        index = int(self.records[position]) if position < len(self.records) else -1
        image = None if index < 0 else self._decoded(index)
        if image is None:
            crop, label = np.zeros((*self.size, self.channels), np.uint8), -1
        else:
            crop, label = center_crop(image, self.size, self.resize), self.source.label(index)
        return {
            "image": crop,
            "label": np.int32(label),
            "index": np.int64(index),
            "valid": np.bool_(image is not None),
            "undecodable": np.bool_(image is None and index >= 0),
        }

    def _decoded(self, index):
        try:
            return read_image(self.source, index, self.channels)
        except DecodeError:
            return None


def _checked_records(records, total):
    records = np.asarray(records)
    if records.ndim != 1 or (len(records) and records.dtype.kind not in "iu"):
        raise ValueError(f"records: {records.dtype} of shape {records.shape}, expected (n,) integers")
    if len(records) and not 0 <= records.min() <= records.max() < total:
        raise ValueError(f"records from {records.min()} to {records.max()}, expected 0 to {total - 1}")
    return records
