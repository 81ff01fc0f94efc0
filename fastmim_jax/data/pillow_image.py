"""Image files opened with Pillow: their formats, orientation, and modes."""

import io
import re

import numpy as np
from PIL import Image

from fastmim_jax.data.image_formats import formats, is_heif, plausible_tga, register_heif
from fastmim_jax.data.limits import DecodeError

ORIENTATION = 0x0112
# Width, height and highest value of a PPM, between spaces and comments.
_PPM = re.compile(rb"P[36](?:(?:\s|#[^\n]*\n){1,99}(\d{1,9})){3}\s")


def candidate_formats(data: bytes) -> tuple[str, ...]:
    """Return the formats that Pillow tries; raises DecodeError for HEIF without pillow-heif."""
    if is_heif(data):
        if not register_heif():
            raise DecodeError("HEIF, which needs pillow-heif (`pip install pillow-heif`, the extra `heif`)")
        return ("HEIF",)
    return formats() if plausible_tga(data) else formats()[:-1]


def is_upright_jpeg(data: bytes) -> bool:
    """Return whether a file is a JPEG of gray or RGB pixels that need not be rotated."""
    if data[:2] != b"\xff\xd8":
        return False
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        return image.format == "JPEG" and image.mode in ("L", "RGB") and orientation_of(image) == 1


def is_png(data: object) -> bool:
    """Return whether a file is a PNG."""
    return isinstance(data, bytes) and data[:4] == b"\x89PNG"


def has_deep_colors(data: object) -> bool:
    """Return whether a file is a PNG or PPM with colours of 16 bits, of which Pillow keeps 8."""
    if not isinstance(data, bytes):
        return False
    if is_png(data):
        return data[24:25] == b"\x10" and data[25:26] != b"\0"
    header = _PPM.match(data)
    return header is not None and int(header[1]) > 255


def to_channels(image: Image.Image, channels: int) -> np.ndarray:
    """Return (H, W, channels) uint8."""
    if channels == 1:
        return np.asarray(_rgb_or_gray(image).convert("L"))[..., None]
    if channels == 3:
        return np.asarray(_rgb_or_gray(image).convert("RGB"))
    return np.asarray(image).reshape(image.height, image.width, channels)


def gray_values(image: Image.Image) -> np.ndarray:
    """Return (H, W) uint16, int32 or float32 of an image of mode I;16, I or F."""
    values = np.asarray(image)
    if image.mode == "I" and image.format == "PPM":  # Pillow scales every PGM of more than 8 bits to 16
        return values.astype(np.uint16)
    return values.astype(values.dtype.newbyteorder("="), copy=False)


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


def orientation_of(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; other values count as 1."""
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:  # a broken EXIF block does not spoil the pixels
        return 1


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undo EXIF orientation 1-8 of an (H, W, C) array; other values count as 1."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels
