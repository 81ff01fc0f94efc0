"""Decoding of image files and arrays to pixels (H, W, C), as an image viewer shows them."""

import dataclasses
import io

import numpy as np
import PIL
from PIL import Image

from fastmim_jax.data.decoder_messages import begin_decoding, begin_record, note, report
from fastmim_jax.data.limits import DecodeError, DecodeRules, check_image, check_jpeg, check_size
from fastmim_jax.data.pillow_image import (
    candidate_formats,
    gray_values,
    has_deep_colors,
    orientation_of,
    to_channels,
    upright,
)
from fastmim_jax.data.records.raw import RawImage
from fastmim_jax.data.records.yuv import Yuv420, to_rgb
from fastmim_jax.data.sources import Source
from fastmim_jax.data.tiff import TiffHeader, keeps_values, read_bands, read_header
from fastmim_jax.data.values import ValueCounts, scale, to_pixels, to_storable

try:
    import simplejpeg
except ImportError:  # optional: Pillow reads the same files, slower
    simplejpeg = None

DEFAULT_RULES = DecodeRules()
_STRIP = 2_000_000  # pixels that are converted at a time, to bound the memory
_LUMA = 0.299, 0.587, 0.114  # as in Pillow

Record = bytes | np.ndarray | Yuv420 | RawImage  # of a source


def decoder_name() -> str:
    """Return the libraries that decode, for the start-up print: 'simplejpeg 1.9.0, Pillow 13.0.0'."""
    if simplejpeg is None:
        return f"Pillow {PIL.__version__} (`pip install simplejpeg` reads JPEG faster)"
    return f"simplejpeg {simplejpeg.__version__}, Pillow {PIL.__version__}"


def decode(
    data: Record, channels: int = 3, rules: DecodeRules = DEFAULT_RULES, counts: ValueCounts | None = None
) -> np.ndarray:
    """Decode one record.

    Args:
      data: bytes of an image file that Pillow reads (the first frame counts) or of a .npy file, or an
        array (H, W) or (H, W, C), or an image of a prepared data set: `Yuv420`, or `RawImage`. Values of
        other dtypes than uint8 are scaled by `rules`, see `to_pixels`.
      channels: 3 gives RGB and 1 luma, whatever the file holds (transparency over white, EXIF
        orientation applied); any other number must be the file's own number of channels.
      rules: limits of size, and range, nodata and dtype of values.
      counts: where clipped and missing values are added; None to count none.

    Returns:
      (H, W, channels) of `rules.pixel_dtype`, contiguous, possibly read-only.

    Raises:
      DecodeError: the record cannot be decoded, is too large, or has another number of channels.

    >>> decode(np.full((4, 6), 0.5, np.float32)).shape
    (4, 6, 3)
    """
    begin_decoding()
    try:
        image = _decode(data, channels, rules, counts)
    except DecodeError:
        raise
    except Exception as error:  # broken files raise a dozen types, from zlib's to struct's
        raise DecodeError(_reason(error, data)) from error
    if 0 in image.shape:
        raise DecodeError(f"has size {image.shape[1]}x{image.shape[0]}")
    report()
    return np.ascontiguousarray(image)


def decode_values(data: Record, channels: int = 3, rules: DecodeRules = DEFAULT_RULES) -> np.ndarray:
    """Decode one record without rounding its values to 8 bits; see `decode`.

    Returns:
      (H, W, channels), contiguous: uint8, or uint16 and float32 where the record has more bits; signed
      integers and those of more than 16 bits are float32. Missing values become the low end of the range.
      Gray images of more bits can be repeated to 3 channels; other numbers have to fit.

    Raises:
      DecodeError: as `decode`, or values that are not finite without a range.
    """
    wide = read_values(data, channels, rules)
    if wide is None or wide[0].dtype == np.uint8:
        return decode(data, channels, rules)
    values, nodata = wide
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or 0 in values.shape:
        raise DecodeError(f"array of shape {values.shape}, expected (height, width, channels)")
    if channels == 3 and values.shape[2] == 1:
        values = np.repeat(values, 3, axis=2)
    if values.shape[2] != channels:
        raise DecodeError(f"has {values.shape[2]} channels, expected {channels}")
    return np.ascontiguousarray(to_storable(values, dataclasses.replace(rules, nodata=nodata)))


def read_values(
    data: Record, channels: int, rules: DecodeRules = DEFAULT_RULES
) -> tuple[np.ndarray, tuple[float, ...]] | None:
    """Return the values of a record as they are stored, and its nodata values; None if Pillow reads 8 bits.

    Returns:
      (H, W) or (H, W, C), which may be uint8 too, and `rules.nodata` with that of a TIFF file.

    Raises:
      DecodeError: the record cannot be decoded, or is too large.
    """
    try:
        return _wide_values(data, channels, rules)
    except DecodeError:
        raise
    except Exception as error:
        raise DecodeError(_reason(error, data)) from error


def read_image(
    source: Source,
    index: int,
    channels: int = 3,
    rules: DecodeRules = DEFAULT_RULES,
    counts: ValueCounts | None = None,
) -> np.ndarray:
    """Read and decode record `index` of a source; see `decode`.

    Raises:
      DecodeError: the record cannot be read or decoded.
    """
    return decode(read_record(source, index), channels, rules, counts)


def read_record(source: Source, index: int) -> Record:
    """Read record `index` of a source; raises DecodeError if it cannot be read."""
    begin_record(source, index)
    try:
        return source[index]
    except Exception as error:  # OSError, or an error of the storage behind the source
        raise DecodeError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _decode(data: Record, channels: int, rules: DecodeRules, counts: ValueCounts | None) -> np.ndarray:
    if isinstance(data, Yuv420):
        pixels = data.y[..., None] if channels == 1 else to_rgb(data)
        return _from_array(pixels, channels, rules, counts)
    if isinstance(data, RawImage):
        own = data.value_range if data.values.dtype == np.uint8 else rules.value_range or data.value_range
        return _to_bands(scale(data.values, own, rules, counts), channels)
    if isinstance(data, np.ndarray):
        return _from_array(data, channels, rules, counts)
    if not data:
        raise DecodeError("empty file")
    if data[:6] == b"\x93NUMPY":
        return _from_array(_load_npy(data, rules), channels, rules, counts)
    if data[:2] == b"\xff\xd8" and simplejpeg is not None and channels in (1, 3):
        image = _fast_jpeg(data, "RGB" if channels == 3 else "GRAY", rules)
        if image is not None:
            return to_pixels(image, rules, counts)
    header = read_header(data)
    if header is not None and header.pages > 1 and not header.has_bands_in_pages(channels):
        note(f"the first of its {header.pages:,} pages alone")
    rules = _with_nodata(rules, header)
    exact = bool(rules.value_range or rules.dtype)
    if header is not None and not keeps_values(header, channels, exact):
        bands = _from_array(read_bands(data, header, channels, rules), channels, rules, counts)
        return upright(bands, header.orientation)
    _check_colors(data, rules)
    return _pillow(data, channels, rules, counts, header.bits if header else 16)


def _with_nodata(rules: DecodeRules, header: TiffHeader | None) -> DecodeRules:
    """Return rules with the nodata value of a TIFF file, if it has one."""
    if header is None or header.nodata is None:
        return rules
    return dataclasses.replace(rules, nodata=(*rules.nodata, header.nodata))


def _wide_values(
    data: Record, channels: int, rules: DecodeRules
) -> tuple[np.ndarray, tuple[float, ...]] | None:
    """-> the values of an array or of an image of more than 8 bits, and nodata; None for all others."""
    if isinstance(data, RawImage):
        return data.values, rules.nodata
    if isinstance(data, np.ndarray):
        return data, rules.nodata
    if not isinstance(data, bytes) or data[:2] == b"\xff\xd8":
        return None
    if data[:6] == b"\x93NUMPY":
        return _load_npy(data, rules), rules.nodata
    header = read_header(data)
    nodata = _with_nodata(rules, header).nodata
    if header is not None and not keeps_values(header, channels, exact=True):
        return upright(read_bands(data, header, channels, rules), header.orientation), nodata
    with Image.open(io.BytesIO(data), formats=candidate_formats(data)) as image:
        if image.mode[0] not in "IF":
            return None
        check_image(image, rules)
        image.load()
        return upright(gray_values(image), orientation_of(image)), nodata


def _check_colors(data: bytes, rules: DecodeRules) -> None:
    """Raise DecodeError for 16-bit colour PNG or PPM with a range: Pillow keeps only 8 bits."""
    if rules.value_range and has_deep_colors(data):
        raise DecodeError(
            "16-bit colour PNG or PPM, which is read as 8 bits: write .npy or TIFF for a value_range"
        )


def _load_npy(data: bytes, rules: DecodeRules) -> np.ndarray:
    array = np.load(io.BytesIO(data), mmap_mode=None, allow_pickle=False)
    if array.ndim >= 2:
        check_size(array.shape[1], array.shape[0], rules)
    return array


def _fast_jpeg(data: bytes, colorspace: str, rules: DecodeRules) -> np.ndarray | None:
    """-> (H, W, 1 or 3) uint8, or None if Pillow has to decode the file."""
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
        check_jpeg(data, width, height, rules)
        if space in ("CMYK", "YCCK"):
            return None
        image = simplejpeg.decode_jpeg(data, colorspace)
    except ValueError:  # simplejpeg is strict: damaged, or only unusual and fine for Pillow
        return None
    if b"Exif\0\0" not in data:  # a fast check: parsing EXIF costs more than a small decode
        return image
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as header:
        return upright(image, orientation_of(header))


def _pillow(
    data: bytes, channels: int, rules: DecodeRules, counts: ValueCounts | None, bits: int
) -> np.ndarray:
    """-> (H, W, channels) pixels; bits: of a sample of a TIFF file."""
    with Image.open(io.BytesIO(data), formats=candidate_formats(data)) as image:
        check_image(image, rules)
        if data[:2] == b"\xff\xd8":
            check_jpeg(data, *image.size, rules)
        image.load()
        orientation = orientation_of(image)
        if channels not in (1, 3) and len(image.getbands()) != channels:
            raise DecodeError(f"has {len(image.getbands())} channels, expected {channels}")
        width, height = image.size
        if image.mode[0] in "IF":
            if rules.has_8_bits and image.format == "PNG":  # white is 65535 by the standard: it means 255
                rules = dataclasses.replace(rules, dtype="")
            gray = to_pixels(gray_values(image), rules, counts, bits if bits > 8 else 16)
            return upright(_to_bands(gray, channels), orientation)
        rows = max(_STRIP // max(width, 1), 1)
        if height <= rows:
            return upright(to_pixels(to_channels(image, channels), rules, counts), orientation)
        pixels = np.empty((height, width, channels), np.uint8)
        for top in range(0, height, rows):
            bottom = min(top + rows, height)
            pixels[top:bottom] = to_channels(image.crop((0, top, width, bottom)), channels)
    return upright(to_pixels(pixels, rules, counts), orientation)


def _from_array(
    array: np.ndarray, channels: int, rules: DecodeRules, counts: ValueCounts | None
) -> np.ndarray:
    if array.ndim not in (2, 3):
        raise DecodeError(f"array of shape {array.shape}, expected (height, width, channels)")
    if 0 in array.shape:
        raise DecodeError(f"array of shape {array.shape}")
    own = array.shape[2] if array.ndim == 3 else 1
    if own != channels and {own, channels} != {1, 3}:
        raise DecodeError(f"has {own} channels, expected {channels}")
    return _to_bands(to_pixels(array, rules, counts), channels)


def _to_bands(pixels: np.ndarray, channels: int) -> np.ndarray:
    """-> (H, W, channels) of pixels (H, W) or (H, W, C)."""
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.shape[2] == channels:
        return pixels
    if channels == 3 and pixels.shape[2] == 1:
        return np.repeat(pixels, 3, axis=2)
    if channels == 1 and pixels.shape[2] == 3 and pixels.dtype != np.uint8:
        luma = pixels @ np.array(_LUMA, np.float32)
        return (luma if pixels.dtype == np.float32 else np.rint(luma)).astype(pixels.dtype)[..., None]
    if channels == 1 and pixels.shape[2] == 3:
        return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).convert("L"))[..., None]
    raise DecodeError(f"has {pixels.shape[2]} channels, expected {channels}")


def _reason(error: Exception, data: Record) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, Image.DecompressionBombError):  # refused before the size can be asked for
        return "far more pixels than config.data.max_pixels"
    if isinstance(error, PIL.UnidentifiedImageError) and isinstance(data, bytes):
        start = bytes(data[:12])
        shown = start.decode("ascii") if start.isascii() else start.hex(" ", 1)
        return f"no image format that Pillow reads, starts with {' '.join(shown.split())!r}"
    if "truncated" in text.lower() or isinstance(error, EOFError):
        return "truncated"
    return f"{type(error).__name__}: {text}"[:120] if text else type(error).__name__
