"""Limits on what decoding one record may cost, judged from the header of the file before it is decoded."""

import dataclasses

import numpy as np
from PIL import Image

MAX_PIXELS = 2**26  # 8,192 x 8,192; one image then takes at most 600 MB and 5 s
MAX_FILE_BYTES = 2**31
MAX_TRIES = 2000  # records tried, from one that cannot be decoded on, before its image is left empty
_SCANNED_PIXELS = 8  # times max_pixels: pixels times scans of a JPEG
# Memory to decode a pixel, relative to that of RGB: experiments/input/decode_cost.py.
_FORMAT_WEIGHTS = {"AVIF": 2, "HEIF": 2, "JPEG2000": 2.5, "WEBP": 2.5}
_MODE_WEIGHTS = {"CMYK": 1.5, "F": 1.5, "I": 1.5}
_BUFFERED_WEIGHT = 1.25  # of a JPEG with all coefficients in memory: progressive, or a scan per channel


class DecodeError(Exception):
    """A record that is not a usable image; `reason` says why in a few words."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


@dataclasses.dataclass(frozen=True)
class DecodeRules:
    """Rules that every record of a data set is decoded by.

    Attributes:
      max_pixels: of an image; half of it for formats whose decoders take twice the memory, and so on.
      value_range: (lowest, highest) value of other dtypes than uint8, see `values.to_pixels`; (): by dtype.
      nodata: values that stand for no measurement.
      dtype: "uint8", "uint16" or "float32" of pixels, decided for a data set: without a value_range its
        images have 8 bits, with one they have more. "": uint8, and images of any number of bits.
    """

    max_pixels: int = MAX_PIXELS
    value_range: tuple[float, float] | tuple[()] = ()
    nodata: tuple[float, ...] = ()
    dtype: str = ""

    @property
    def pixel_dtype(self) -> np.dtype:
        """Dtype of decoded pixels."""
        return np.dtype(self.dtype or "uint8")

    @property
    def has_8_bits(self) -> bool:
        """Whether the data set is known to have 8-bit images."""
        return bool(self.dtype) and not self.value_range


def check_size(width: int, height: int, rules: DecodeRules, weight: float = 1) -> None:
    """Raise DecodeError if an image has more pixels than allowed; weight: its memory, relative."""
    limit = int(rules.max_pixels / weight)
    if width * height > limit:
        raise DecodeError(f"{width:,} x {height:,} pixels, more than {limit:,} (--config.data.max_pixels)")


def check_image(image: Image.Image, rules: DecodeRules) -> None:
    """Raise DecodeError if an image that Pillow has opened, but not loaded, is too large."""
    weight = max(_FORMAT_WEIGHTS.get(image.format or "", 1), _MODE_WEIGHTS.get(image.mode, 1))
    check_size(*image.size, rules, weight)


def check_jpeg(data: bytes, width: int, height: int, rules: DecodeRules) -> None:
    """Raise DecodeError if a JPEG is too large, too short for its size, or has too many scans.

    A block of 8 x 8 samples takes at least a bit: a shorter file is cut, or its header is damaged.
    """
    scans = data.count(b"\xff\xda")  # one more for a thumbnail
    check_size(width, height, rules, _BUFFERED_WEIGHT if scans > 2 else 1)
    if len(data) * 512 < width * height:
        raise DecodeError(f"truncated: {len(data):,} bytes for {width:,} x {height:,} pixels")
    if scans * width * height > _SCANNED_PIXELS * rules.max_pixels:
        raise DecodeError(f"a JPEG of {width:,} x {height:,} pixels in {scans:,} scans, which is too many")
