"""Images of prepared records, of which only the rows that a crop needs are read."""

import math
import os
from typing import Any

import numpy as np

from fastmim_jax.data.records.raw import RawImage
from fastmim_jax.data.records.record import MIN_HEAD, Head, unpack_head
from fastmim_jax.data.records.yuv import Yuv420, chroma_shape
from fastmim_jax.data.sources import riegeli
from fastmim_jax.data.sources.pread import FileStamp

Box = tuple[int, int, int, int]  # (left, top, width, height) in pixels


class RecordRows:
    """The image of a "yuv420" or "raw" record; its pixels are read without their checksum.

    Attributes:
      layout: "yuv420" or "raw".
      shape: (H, W, C).
    """

    def __init__(self, file: FileStamp, start: int, head: Head, value_range: tuple[float, float] | None):
        """Args:
        file: the shard.
        start: position of the image in it, see `riegeli`.
        head: of the record.
        value_range: of `RawImage`; None for the natural range of the dtype.
        """
        self.layout, self.shape = head.layout, head.shape
        self._file, self._start, self._dtype, self._range = file, start, head.dtype, value_range

    def read(self, box: Box | None = None) -> tuple[np.ndarray | Yuv420 | RawImage, Box]:
        """Read the rows of a box, None for all rows.

        Returns:
          The image of these rows, and the box in it.

        Raises:
          OSError: the file cannot be read, or ends before.
        """
        left, top, width, height = box or (0, 0, self.shape[1], self.shape[0])
        if self.layout == "yuv420":
            first = top - top % 2  # a row of chroma belongs to two rows of luma
            return self._read_planes(first, top + height), (left, top - first, width, height)
        return self._read_values(top, height), (left, 0, width, height)

    def _read_values(self, top: int, height: int) -> np.ndarray | RawImage:
        row = math.prod(self.shape[1:]) * self._dtype.itemsize
        data = np.empty(height * row, np.uint8)
        riegeli.read_into(self._file, self._start + top * row, data.data)
        values = data.view(self._dtype).reshape(height, *self.shape[1:])
        return values if self._range is None else RawImage(values, self._range)

    def _read_planes(self, top: int, bottom: int) -> Yuv420:
        height, width = self.shape[:2]
        chroma = chroma_shape(height, width)
        rows, half_rows = bottom - top, (bottom + 1) // 2 - top // 2
        luma, each = rows * width, half_rows * chroma[1]
        data = np.empty(luma + 2 * each, np.uint8)
        u = self._start + height * width + top // 2 * chroma[1]
        v = u + chroma[0] * chroma[1]
        out = data.data
        riegeli.read_into(self._file, self._start + top * width, out[:luma])
        riegeli.read_into(self._file, u, out[luma : luma + each])
        riegeli.read_into(self._file, v, out[luma + each :])
        return Yuv420(data[:luma].reshape(rows, width), *data[luma:].reshape(2, half_rows, chroma[1]))


def open_rows(
    file: FileStamp, chunk: int, name: str, label: int, value_range: tuple[float, float] | None
) -> RecordRows:
    """Open the image of a record, after a check that the record is the expected one.

    Args:
      file: the shard.
      chunk: position of the record's chunk, see `riegeli`.
      name, label: of the record.
      value_range: see `RecordRows`.

    Raises:
      OSError: the file cannot be read.
      ValueError: another record, or none, is there.
    """
    data = riegeli.read_at(file, chunk, riegeli.MAX_PREFIX + MIN_HEAD + len(os.fsencode(name)))
    found = riegeli.parse_chunk(data, chunk)
    head = unpack_head(data[found.record - chunk :])
    if (head.name, head.label) != (name, label):
        raise ValueError(f"the record {head.name} with label {head.label}")
    if found.size != head.start + image_size(head):
        raise ValueError(f"a record of {found.size:,} bytes for an image of shape {head.shape}")
    return RecordRows(file, found.record + head.start, head, value_range)


def read_rows(source: Any, index: int) -> RecordRows | None:
    """Return record `index` of a source whose rows can be read by themselves, or None."""
    rows = getattr(source, "rows", None)
    return None if rows is None else rows(index)


def image_size(head: Head) -> int:
    """Return the bytes of an image, 0 for a JPEG file."""
    if head.layout == "yuv420":
        return math.prod(head.shape[:2]) + 2 * math.prod(chroma_shape(*head.shape[:2]))
    return math.prod(head.shape) * head.dtype.itemsize if head.layout == "raw" else 0
