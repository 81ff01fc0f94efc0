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
MIN_HEAD = _HEADER.size
_NUMPY_DTYPES = [np.dtype(name).newbyteorder("<") for name in DTYPES]

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


class Head(NamedTuple):
    """The header and the name of a record.

    dtype: of the values of an array, little-endian. shape: (H, W, C). start: of the image, bytes.
    """

    layout: str
    dtype: np.dtype
    shape: tuple[int, int, int]
    label: int
    name: str
    start: int


def unpack_head(record: bytes | bytearray) -> Head:
    """Return the head of a record from its first bytes, at least MIN_HEAD and those of the name.

    Raises:
      ValueError: the bytes do not begin with a head.
    """
    if record[:4] != _MAGIC or len(record) < _HEADER.size:
        raise ValueError(f"not a record of `fastmim prepare`, starts with {bytes(record[:4])!r}")
    _, layout, dtype, channels, height, width, label, length = _HEADER.unpack_from(record)
    end = _HEADER.size + length
    if layout >= len(LAYOUTS) or dtype >= len(DTYPES) or len(record) < end:
        raise ValueError("a damaged or truncated record")
    name = os.fsdecode(bytes(record[_HEADER.size : end]))
    shape = height, width, channels
    return Head(LAYOUTS[layout], _NUMPY_DTYPES[dtype], shape, label, name, end + -end % _ALIGNMENT)


def unpack(record: bytes) -> Record:
    """Return the parts of a record; the image is not copied, except for the bytes of a JPEG file.

    Raises:
      ValueError: the bytes are not a whole record.
    """
    head = unpack_head(record)
    return Record(head.layout, head.shape, head.label, head.name, _image(record, head))


def _image(record: bytes, head: Head) -> StoredImage:
    if head.layout == "jpeg":
        return record[head.start :]
    if head.layout == "raw":
        return np.frombuffer(record, head.dtype, offset=head.start).reshape(head.shape)
    height, width, _ = head.shape
    luma, half = height * width, chroma_shape(height, width)
    chroma = half[0] * half[1]
    if len(record) != head.start + luma + 2 * chroma:
        raise ValueError(f"a record of {len(record):,} bytes, expected {head.start + luma + 2 * chroma:,}")
    y = np.frombuffer(record, np.uint8, luma, head.start).reshape(height, width)
    u, v = np.frombuffer(record, np.uint8, 2 * chroma, head.start + luma).reshape(2, *half)
    return Yuv420(y, u, v)
