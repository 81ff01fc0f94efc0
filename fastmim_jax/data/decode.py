"""Decoding of image files and arrays to (H, W, C) uint8, as an image viewer shows them."""

import io

import numpy as np
import PIL
from PIL import Image

from fastmim_jax.data.image_formats import formats, is_heif, plausible_tga, register_heif
from fastmim_jax.data.limits import DecodeError, DecodeRules, check_image, check_jpeg, check_size
from fastmim_jax.data.records.raw import RawImage
from fastmim_jax.data.records.yuv import Yuv420, to_rgb
from fastmim_jax.data.sources import Source
from fastmim_jax.data.tiff import keeps_values, read_bands, read_header
from fastmim_jax.data.values import ValueRange, to_storable, to_uint8

try:
    import simplejpeg
except ImportError:  # optional: Pillow reads the same files, slower
    simplejpeg = None

ORIENTATION = 0x0112
DEFAULT_RULES = DecodeRules()
_STRIP = 2_000_000  # pixels that are converted at a time, to bound the memory


def decoder_name() -> str:
    """Return the libraries that decode, for the start-up print: 'simplejpeg 1.9.0, Pillow 13.0.0'."""
    if simplejpeg is None:
        return f"Pillow {PIL.__version__} (`pip install simplejpeg` reads JPEG faster)"
    return f"simplejpeg {simplejpeg.__version__}, Pillow {PIL.__version__}"


def decode(
    data: bytes | np.ndarray | Yuv420 | RawImage, channels: int = 3, rules: DecodeRules = DEFAULT_RULES
) -> np.ndarray:
    """Decode one record.

    Args:
      data: bytes of an image file that Pillow reads (the first frame counts) or of a .npy file, or an
        array (H, W) or (H, W, C), or an image of a prepared data set: `Yuv420`, or `RawImage`. Values of
        other dtypes than uint8 become 0 to 255 by `rules`, see `to_uint8`.
      channels: 3 gives RGB and 1 luma, whatever the file holds (transparency over white, EXIF
        orientation applied); any other number must be the file's own number of channels.
      rules: limits of size, and the range of values.

    Returns:
      (H, W, channels) uint8, contiguous, possibly read-only.

    Raises:
      DecodeError: the record cannot be decoded, is too large, or has another number of channels.

    >>> decode(np.full((4, 6), 0.5, np.float32)).shape
    (4, 6, 3)
    """
    try:
        image = _decode(data, channels, rules)
    except DecodeError:
        raise
    except Exception as error:  # broken files raise a dozen types, from zlib's to struct's
        raise DecodeError(_reason(error, data)) from error
    if 0 in image.shape:
        raise DecodeError(f"has size {image.shape[1]}x{image.shape[0]}")
    return np.ascontiguousarray(image)


def decode_values(
    data: bytes | np.ndarray | Yuv420 | RawImage, channels: int = 3, rules: DecodeRules = DEFAULT_RULES
) -> np.ndarray:
    """Decode one record without rounding its values to 8 bits; see `decode`.

    Returns:
      (H, W, channels), contiguous: uint8, or uint16 and float32 where the record has more bits; signed
      integers and those of more than 16 bits are float32. Gray images
      of more bits can be repeated to 3 channels; other numbers have to fit.

    Raises:
      DecodeError: as `decode`, or values that are not finite.
    """
    try:
        values = _wide_values(data, channels, rules)
    except DecodeError:
        raise
    except Exception as error:
        raise DecodeError(_reason(error, data)) from error
    if values is None or values.dtype == np.uint8:
        return decode(data, channels, rules)
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or 0 in values.shape:
        raise DecodeError(f"array of shape {values.shape}, expected (height, width, channels)")
    if channels == 3 and values.shape[2] == 1:
        values = np.repeat(values, 3, axis=2)
    if values.shape[2] != channels:
        raise DecodeError(f"has {values.shape[2]} channels, expected {channels}")
    return np.ascontiguousarray(to_storable(values))


def read_image(
    source: Source, index: int, channels: int = 3, rules: DecodeRules = DEFAULT_RULES
) -> np.ndarray:
    """Read and decode record `index` of a source; see `decode`.

    Raises:
      DecodeError: the record cannot be read or decoded.
    """
    return decode(read_record(source, index), channels, rules)


def read_record(source: Source, index: int) -> bytes | np.ndarray | Yuv420 | RawImage:
    """Read record `index` of a source; raises DecodeError if it cannot be read."""
    try:
        return source[index]
    except Exception as error:  # OSError, or an error of the storage behind the source
        raise DecodeError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _decode(data: bytes | np.ndarray | Yuv420 | RawImage, channels: int, rules: DecodeRules) -> np.ndarray:
    if isinstance(data, Yuv420):
        return data.y[..., None] if channels == 1 else _from_array(to_rgb(data), channels)
    if isinstance(data, RawImage):
        own = data.value_range if data.values.dtype == np.uint8 else rules.value_range or data.value_range
        return _from_array(RawImage(data.values, own).to_uint8(), channels)
    if isinstance(data, np.ndarray):
        return _from_array(data, channels, rules.value_range)
    if not data:
        raise DecodeError("empty file")
    if data[:6] == b"\x93NUMPY":
        return _from_array(_load_npy(data, rules), channels, rules.value_range)
    if data[:2] == b"\xff\xd8" and simplejpeg is not None and channels in (1, 3):
        image = _fast_jpeg(data, "RGB" if channels == 3 else "GRAY", rules)
        if image is not None:
            return image
    header = read_header(data)
    if header is not None and not keeps_values(header, channels, exact=bool(rules.value_range)):
        bands = _from_array(read_bands(data, header, rules), channels, rules.value_range)
        return _upright(bands, header.orientation)
    _check_png(data, rules)
    return _pillow(data, channels, rules, header.bits if header else 16)


def _wide_values(
    data: bytes | np.ndarray | Yuv420 | RawImage, channels: int, rules: DecodeRules
) -> np.ndarray | None:
    """-> the values of an array or of an image of more than 8 bits; None for all others."""
    if isinstance(data, RawImage):
        return data.values
    if isinstance(data, np.ndarray):
        return data
    if not isinstance(data, bytes) or data[:2] == b"\xff\xd8":
        return None
    if data[:6] == b"\x93NUMPY":
        return _load_npy(data, rules)
    header = read_header(data)
    if header is not None and not keeps_values(header, channels, exact=True):
        return _upright(read_bands(data, header, rules), header.orientation)
    with Image.open(io.BytesIO(data), formats=_candidates(data)) as image:
        if image.mode[0] not in "IF":
            return None
        check_image(image, rules)
        image.load()
        return _upright(_gray_values(image), _orientation(image))


def _gray_values(image: Image.Image) -> np.ndarray:
    """-> (H, W) of uint16, int32 or float32 of an image of mode I;16, I or F."""
    values = np.asarray(image)
    if image.mode == "I" and image.format == "PPM":  # Pillow scales every PGM of more than 8 bits to 16
        return values.astype(np.uint16)
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _check_png(data: bytes, rules: DecodeRules) -> None:
    """Raise DecodeError for 16-bit colour PNG with a declared range: Pillow reads its high bytes only."""
    if rules.value_range and data[:4] == b"\x89PNG" and data[24:25] == b"\x10" and data[25:26] != b"\0":
        raise DecodeError(
            "16-bit colour PNG, which is read as 8 bits: write .npy or TIFF for a value_range"
        )


def is_upright_jpeg(data: bytes) -> bool:
    """Return whether a file is a JPEG of gray or RGB pixels that need not be rotated."""
    if data[:2] != b"\xff\xd8":
        return False
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        return image.format == "JPEG" and image.mode in ("L", "RGB") and _orientation(image) == 1


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
        return _upright(image, _orientation(header))


def _pillow(data: bytes, channels: int, rules: DecodeRules, bits: int) -> np.ndarray:
    """-> (H, W, channels) uint8; bits: of a sample of a TIFF file."""
    with Image.open(io.BytesIO(data), formats=_candidates(data)) as image:
        check_image(image, rules)
        if data[:2] == b"\xff\xd8":
            check_jpeg(data, *image.size, rules)
        image.load()
        orientation = _orientation(image)
        if channels not in (1, 3) and len(image.getbands()) != channels:
            raise DecodeError(f"has {len(image.getbands())} channels, expected {channels}")
        width, height = image.size
        if image.mode[0] in "IF":
            gray = to_uint8(_gray_values(image), rules.value_range, bits if bits > 8 else 16)
            return _upright(_from_array(gray, channels), orientation)
        rows = max(_STRIP // max(width, 1), 1)
        if height <= rows:
            return _upright(_to_channels(image, channels), orientation)
        pixels = np.empty((height, width, channels), np.uint8)
        for top in range(0, height, rows):
            bottom = min(top + rows, height)
            pixels[top:bottom] = _to_channels(image.crop((0, top, width, bottom)), channels)
    return _upright(pixels, orientation)


def _to_channels(image: Image.Image, channels: int) -> np.ndarray:
    """-> (H, W, channels) uint8."""
    if channels == 1:
        return np.asarray(_rgb_or_gray(image).convert("L"))[..., None]
    if channels == 3:
        return np.asarray(_rgb_or_gray(image).convert("RGB"))
    return np.asarray(image).reshape(image.height, image.width, channels)


def _candidates(data: bytes) -> tuple[str, ...]:
    """-> the formats that Pillow tries."""
    if is_heif(data):
        if not register_heif():
            raise DecodeError("HEIF, which needs pillow-heif (`pip install pillow-heif`, the extra `heif`)")
        return ("HEIF",)
    return formats() if plausible_tga(data) else formats()[:-1]


def _rgb_or_gray(image: Image.Image) -> Image.Image:
    """Convert any Pillow image to mode RGB or L."""
    if image.mode in ("RGB", "L") and "transparency" not in image.info:
        return image
    if image.mode == "1":
        return image.convert("L")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:  # a broken EXIF block does not spoil the pixels
        return 1


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undo EXIF orientation 1-8 of an (H, W, C) array; other values count as 1."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _from_array(array: np.ndarray, channels: int, value_range: ValueRange = ()) -> np.ndarray:
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3:
        raise DecodeError(f"array of shape {array.shape}, expected (height, width, channels)")
    if 0 in array.shape:
        raise DecodeError(f"array of shape {array.shape}")
    pixels = to_uint8(array, value_range)
    if pixels.shape[2] == channels:
        return pixels
    if channels == 3 and pixels.shape[2] == 1:
        return np.repeat(pixels, 3, axis=2)
    if channels == 1 and pixels.shape[2] == 3:
        return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).convert("L"))[..., None]
    raise DecodeError(f"has {pixels.shape[2]} channels, expected {channels}")


def _reason(error: Exception, data: bytes | np.ndarray | Yuv420 | RawImage) -> str:
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
