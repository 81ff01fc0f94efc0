"""Shrink an image and encode it as a record stores it."""

import io

import numpy as np
from PIL import Image

from fastmim_jax.data.augment import resize_crop
from fastmim_jax.data.records.record import StoredImage
from fastmim_jax.data.records.yuv import from_rgb


def shrunk_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Return (height, width) with the short side at most `short_side` pixels; 0 keeps the size."""
    short = min(height, width)
    if not short_side or short <= short_side:
        return height, width
    return round(height * short_side / short), round(width * short_side / short)


def shrink(image: np.ndarray, short_side: int) -> np.ndarray:
    """Shrink an image, bicubic and antialiased; it is never enlarged.

    Args:
      image: (H, W, C) uint8, uint16 or float32.
      short_side: at most this many pixels; 0 keeps the size.

    Returns:
      (h, w, C) of the same dtype; without values that the channel of the image does not span, except for
      uint8, where the overshoot of the filter stays.
    """
    height, width, _ = image.shape
    size = shrunk_size(height, width, short_side)
    if size == (height, width):
        return image
    if image.dtype == np.uint8:
        return resize_crop(image, (0, 0, width, height), size)
    return np.stack([_shrink_plane(plane, size) for plane in np.moveaxis(image, -1, 0)], axis=-1)


def encode(image: np.ndarray, layout: str, quality: int) -> StoredImage:
    """Encode an image.

    Args:
      image: (H, W, C) uint8 with C = 1 or 3 for "jpeg" and 3 for "yuv420"; of any C, and also uint16 or
        float32, for "raw".
      layout: "jpeg", "yuv420" or "raw".
      quality: of JPEG, 1 to 100.

    Raises:
      ValueError, OSError: JPEG cannot store the image, for example with a side of more than 65,500 pixels.
    """
    if layout == "raw":
        return image
    return from_rgb(image) if layout == "yuv420" else encode_jpeg(image, quality)


def encode_jpeg(image: np.ndarray, quality: int) -> bytes:
    """Encode (H, W, 1 or 3) uint8 as a baseline JPEG file with 4:2:0 chroma; errors as in `encode`."""
    file = io.BytesIO()  # Pillow, because the DCT of simplejpeg is less exact (45 dB between them)
    pixels = np.ascontiguousarray(image[..., 0] if image.shape[2] == 1 else image)
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return file.getvalue()


def _shrink_plane(plane: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Shrink (H, W) uint16 or float32 in float32, within the range of its own values."""
    values = Image.fromarray(np.ascontiguousarray(plane, np.float32))
    small = np.asarray(values.resize(size[::-1], Image.Resampling.BICUBIC)).clip(plane.min(), plane.max())
    return (np.rint(small) if plane.dtype == np.uint16 else small).astype(plane.dtype)
