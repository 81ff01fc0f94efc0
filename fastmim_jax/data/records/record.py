"""One record as bytes: a header, the name, and the image as its layout stores it.

Header, little-endian, 24 bytes: magic b"FMR1"; layout and dtype (uint8, positions in LAYOUTS and DTYPES);
channels (uint16); height and width (uint32); label (int32, -1 for none); bytes of the name (uint16); 2 zero
bytes. The name follows in UTF-8, then zeros up to a multiple of 16, then the image.
"""

import os
import struct
from typing import NamedTuple

import numpy as np

from fastmim_jax.data.records.yuv import Yuv420, chroma_shape

LAYOUTS = ("jpeg", "yuv420", "raw")
DTYPES = ("uint8", "uint16", "float32")
MAX_NAME = 65535  # bytes

_MAGIC = b"FMR1"
_HEADER = struct.Struct("<4sBBHIIiHxx")
_ALIGNMENT = 16

StoredImage = bytes | Yuv420 | np.ndarray


class Record(NamedTuple):
    """A record, unpacked.

    image: the bytes of a JPEG file, `Yuv420`, or (H, W, C); arrays are read-only views of the record.
    shape: (H, W, C).
    """

    layout: str
    shape: tuple[int, int, int]
    label: int
    name: str
    image: StoredImage


def pack(image: StoredImage, shape: tuple[int, int, int], label: int, name: str) -> bytes:
    """Return the bytes of a record.

    Args:
      image: the bytes of a JPEG file, `Yuv420`, or (H, W, C) with a dtype in DTYPES.
      shape: (H, W, C).
      label: class number, -1 for none.
      name: cut to MAX_NAME bytes.
    """
    parts: list[bytes | memoryview]
    if isinstance(image, bytes):
        layout, dtype, parts = "jpeg", "uint8", [image]
    elif isinstance(image, Yuv420):
        layout, dtype = "yuv420", "uint8"
        parts = [np.ascontiguousarray(plane).data for plane in (image.y, image.u, image.v)]
    else:
        layout, dtype = "raw", image.dtype.name
        parts = [np.ascontiguousarray(image, image.dtype.newbyteorder("<")).data]
    encoded = os.fsencode(name)[:MAX_NAME]
    height, width, channels = shape
    numbers = LAYOUTS.index(layout), DTYPES.index(dtype), channels, height, width, label, len(encoded)
    start = _HEADER.pack(_MAGIC, *numbers) + encoded
    return b"".join([start, bytes(-len(start) % _ALIGNMENT), *parts])


def unpack(record: bytes) -> Record:
    """Return the parts of a record; the image is not copied, except for the bytes of a JPEG file.

    Raises:
      ValueError: the bytes are not a whole record.
    """
    if record[:4] != _MAGIC or len(record) < _HEADER.size:
        raise ValueError(f"not a record of `fastmim prepare`, starts with {record[:4]!r}")
    _, layout, dtype, channels, height, width, label, length = _HEADER.unpack_from(record)
    name = os.fsdecode(record[_HEADER.size : _HEADER.size + length])
    start = _HEADER.size + length
    start += -start % _ALIGNMENT
    shape = height, width, channels
    return Record(LAYOUTS[layout], shape, label, name, _image(record, start, LAYOUTS[layout], dtype, shape))


def _image(record: bytes, start: int, layout: str, dtype: int, shape: tuple[int, int, int]) -> StoredImage:
    if layout == "jpeg":
        return record[start:]
    if layout == "raw":
        values = np.frombuffer(record, np.dtype(DTYPES[dtype]).newbyteorder("<"), offset=start)
        return values.reshape(shape)
    height, width, _ = shape
    luma, half = height * width, chroma_shape(height, width)
    chroma = half[0] * half[1]
    if len(record) != start + luma + 2 * chroma:
        raise ValueError(f"a record of {len(record):,} bytes, expected {start + luma + 2 * chroma:,}")
    y = np.frombuffer(record, np.uint8, luma, start).reshape(height, width)
    u, v = np.frombuffer(record, np.uint8, 2 * chroma, start + luma).reshape(2, *half)
    return Yuv420(y, u, v)
