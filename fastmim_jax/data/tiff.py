"""TIFF files whose bands or values Pillow does not keep: any number of bands, of 8 to 64 bits."""

import io
import re
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from fastmim_jax.data.limits import DecodeError, DecodeRules, check_size

_MAGIC = {b"II*\0": ("<", False), b"MM\0*": (">", False), b"II+\0": ("<", True), b"MM\0+": (">", True)}
_TYPES = {1: "B", 3: "H", 4: "I", 16: "Q"}  # of the integers that the tags below have
_KINDS = {1: "u", 2: "i", 3: "f"}
_WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _ORIENTATION, _SAMPLES = 256, 257, 258, 262, 274, 277
_SEGMENTS, _TILES, _EXTRA, _FORMAT, _NODATA = 273, 324, 338, 339, 42113
_ASCII = 2
_READ = {_WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _ORIENTATION, _SAMPLES, _EXTRA, _FORMAT}
_DESCRIPTION = 270
_WHITE_IS_ZERO, _RGB, _CMYK = 0, 2, 5
_LONGEST, _LONGEST_DESCRIPTION = 64, 4000  # characters of a number, of a description
_MAX_PAGES = 500
_MAX_TAGS, _MAX_SEGMENTS = 1000, 100_000
_PIXEL = 8  # bytes that decoding a pixel of RGB takes


class TiffHeader(NamedTuple):
    """The first image of a TIFF file.

    bits: per sample. kind: "u", "i" or "f" as in NumPy, "" for others. samples: bands.
    alpha: whether one of 4 bands is alpha or black, as Pillow knows them. orientation: as in EXIF.
    nodata: of GDAL, or None. pillow: whether Pillow opens the file: no big-endian BigTIFF.
    inverted: whether 0 is white. pages: images of one size in the file, up to _MAX_PAGES.
    described: bands that the description of OME or ImageJ tells, 0 without one.
    """

    width: int
    height: int
    bits: int
    kind: str
    samples: int
    alpha: bool
    orientation: int
    nodata: float | None = None
    pillow: bool = True
    inverted: bool = False
    pages: int = 1
    described: int = 0

    def has_bands_in_pages(self, channels: int) -> bool:
        """Return whether the pages of the file are the bands of one image."""
        if self.samples > 1 or self.pages != channels or channels == 1:
            return False
        return channels != 3 or self.described == channels


def read_header(data: bytes) -> TiffHeader | None:
    """Return the header of a TIFF file; None for other files, and for damaged ones.

    Raises:
      DecodeError: an absurd number of strips or tiles.
    """
    if data[:4] not in _MAGIC:
        return None
    try:
        order, big = _MAGIC[data[:4]]
        tags, following = _read_tags(data, order, big)
        extra, photometric = tags.get(_EXTRA, (0,))[0], tags.get(_PHOTOMETRIC, (1,))[0]
        return TiffHeader(
            tags[_WIDTH][0],
            tags[_HEIGHT][0],
            max(tags.get(_BITS, (1,))),
            _KINDS.get(tags.get(_FORMAT, (1,))[0], ""),
            tags.get(_SAMPLES, (1,))[0],
            photometric == _CMYK or (photometric == _RGB and extra > 0),
            tags.get(_ORIENTATION, (1,))[0],
            tags.get(_NODATA, (None,))[0],
            data[:4] != b"MM\0+",
            photometric == _WHITE_IS_ZERO,
            _count_pages(data, order, big, tags, following),
            _described_bands(tags),
        )
    except (struct.error, KeyError, IndexError):
        return None


def keeps_values(header: TiffHeader, channels: int, exact: bool) -> bool:
    """Return whether Pillow reads all bands and bits.

    exact: whether more than the high byte of 16-bit colour counts.
    """
    bits, kind, samples = header.bits, header.kind, header.samples
    if not header.pillow or header.has_bands_in_pages(channels):
        return False
    if header.inverted and bits > 8:  # Pillow leaves them as they are stored
        return kind != "u"
    if samples == 1:
        return (kind == "u" and bits <= 16) or (kind, bits) in {("i", 16), ("i", 32), ("f", 32)}
    if kind != "u" or samples > 4 or (samples == 4 and channels == 4 and not header.alpha):
        return False
    deep = bits == 16 and samples > 2 and not header.alpha and not exact
    return bits <= 8 or (deep and channels in (1, 3))


def read_bands(data: bytes, header: TiffHeader, channels: int, rules: DecodeRules) -> np.ndarray:
    """Return (H, W, C) of the file's dtype, where 0 is black; not rotated.

    channels: C that is expected, for files that have their bands in pages.

    Raises:
      DecodeError: too large.
      Exception: of tifffile, for damaged files and for compressions that need imagecodecs.
    """
    import tifffile  # here: importing it takes a second

    stored = header.samples * (header.bits / 8 + 1)
    in_pages = header.has_bands_in_pages(channels)
    stored *= channels if in_pages else 1
    check_size(header.width, header.height, rules, max(stored / _PIXEL, 1))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        if (page.imagewidth, page.imagelength) != (header.width, header.height) or page.imagedepth != 1:
            raise DecodeError("a damaged TIFF header, or a volume")
        values = page.asarray(maxworkers=1)
        axes = page.axes
        if in_pages and axes == "YX":
            rest = [file.pages[number].asarray(maxworkers=1) for number in range(1, channels)]
            return _upright_white(np.stack([values, *rest], axis=-1), header)
    values = _upright_white(values, header)
    if axes == "YX":
        return values[..., None]
    if axes == "SYX":
        return np.moveaxis(values, 0, -1)
    if axes != "YXS":
        raise DecodeError(f"a TIFF with axes {axes}, expected bands, rows and columns")
    return values


def _upright_white(values: np.ndarray, header: TiffHeader) -> np.ndarray:
    """Return values in which black is 0, of unsigned integers."""
    if not header.inverted or values.dtype.kind != "u":
        return values
    return (2**header.bits - 1 - values).astype(values.dtype)


def _count_pages(
    data: bytes, order: str, big: bool, tags: Mapping[int, tuple[Any, ...]], following: int
) -> int:
    """Return the number of images of the size of the first one, up to _MAX_PAGES."""
    count, seen = 1, {0}
    while following not in seen and len(seen) < _MAX_PAGES:
        seen.add(following)
        try:
            further, following = _read_tags(data, order, big, following)
        except (struct.error, DecodeError):
            break
        if all(further.get(tag) == tags.get(tag) for tag in (_WIDTH, _HEIGHT, _BITS, _FORMAT)):
            count += 1
    return count


def _described_bands(tags: Mapping[int, tuple[Any, ...]]) -> int:
    """Return the number of bands in the description that OME and ImageJ write."""
    text = tags.get(_DESCRIPTION, (b"",))[0]
    found = re.search(rb'(?:SizeC="|\bchannels=)(\d{1,4})\b', text)
    is_known = text.startswith(b"ImageJ=") or b"<OME" in text
    return int(found[1]) if found and is_known else 0


def _read_tags(
    data: bytes, order: str, big: bool, start: int | None = None
) -> tuple[Mapping[int, tuple[Any, ...]], int]:
    """-> ({tag: its first values} of a directory, the first one if None; start of the next one, or 0)."""
    first, count, entry, size = ("Q", "Q", "HHQ", 20) if big else ("I", "H", "HHI", 12)
    if start is None:
        (start,) = struct.unpack_from(order + first, data, 8 if big else 4)
    (number,) = struct.unpack_from(order + count, data, start)
    start += struct.calcsize(order + count)
    ends = start + number * size
    (following,) = struct.unpack_from(order + first, data, ends) if ends + 8 <= len(data) else (0,)
    tags: dict[int, tuple[Any, ...]] = {}
    for at in range(start, start + min(number, _MAX_TAGS) * size, size):
        tag, kind, values = struct.unpack_from(order + entry, data, at)
        if tag in (_SEGMENTS, _TILES) and values > _MAX_SEGMENTS:
            raise DecodeError(f"a TIFF of {values:,} strips or tiles, expected at most {_MAX_SEGMENTS:,}")
        if tag == _DESCRIPTION and kind == _ASCII and values > size - struct.calcsize(order + entry):
            (text_at,) = struct.unpack_from(order + first, data, at + struct.calcsize(order + entry))
            tags[tag] = (bytes(data[text_at : text_at + min(values, _LONGEST_DESCRIPTION)]),)
        if tag == _NODATA and kind == _ASCII:
            inside = values <= size - struct.calcsize(order + entry)
            offset = at + struct.calcsize(order + entry)
            (text_at,) = (offset,) if inside else struct.unpack_from(order + first, data, offset)
            tags[tag] = (_number(data[text_at : text_at + min(values, _LONGEST)]),)
        if tag not in _READ or kind not in _TYPES or not values:
            continue
        where = at + struct.calcsize(order + entry)
        values = min(values, 4)
        inline = size - struct.calcsize(order + entry)
        layout = f"{order}{values}{_TYPES[kind]}"
        total = struct.unpack_from(order + entry, data, at)[2] * struct.calcsize(order + _TYPES[kind])
        if total > inline:
            (where,) = struct.unpack_from(order + first, data, where)
        tags[tag] = struct.unpack_from(layout, data, where)
    return tags, following


def _number(text: bytes) -> float | None:
    """-> the number in the text of a tag, or None."""
    try:
        return float(text.split(b"\0")[0])
    except ValueError:
        return None
