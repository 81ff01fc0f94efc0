"""Reading of label images: the values or colours that a file holds, unscaled."""

import io

import numpy as np
from PIL import Image

from fastmim_jax.data.limits import DecodeError, DecodeRules, check_image
from fastmim_jax.data.masks.problems import MaskError
from fastmim_jax.data.pillow_image import gray_values, orientation_of, upright
from fastmim_jax.data.sources.pread import read_file

FORMATS = ("PNG", "TIFF", "BMP", "GIF")  # that keep every value
_LOSSY = {b"\xff\xd8": "JPEG", b"RIFF": "WebP"}  # by their first bytes


def read_label_image(path: str, rules: DecodeRules) -> np.ndarray:
    """Return the values of a label image, as a viewer turns it.

    Returns:
      (H, W) uint8, uint16 or int32: gray values of 1 to 16 bits as they are stored, or palette indices; or
      (H, W, 3) uint8 colours. A .npy file of integers is read too.

    Raises:
      MaskError: another or a broken file.
    """
    try:
        data = read_file(path)
        for start, name in _LOSSY.items():
            if data.startswith(start):
                raise MaskError("lossy", path, name)
        return _load_npy(data) if data.startswith(b"\x93NUMPY") else _open(data, path, rules)
    except MaskError:
        raise
    except DecodeError as error:
        raise MaskError("unreadable", path, error.reason) from error
    except Exception as error:  # broken files raise a dozen types
        reason = " ".join((getattr(error, "strerror", "") or str(error) or type(error).__name__).split())
        raise MaskError("unreadable", path, reason[:120]) from error


def _load_npy(data: bytes) -> np.ndarray:
    values = np.load(io.BytesIO(data), allow_pickle=False)
    if values.ndim != 2 or values.dtype.kind not in "biu":
        raise DecodeError(f"array {values.shape} of {values.dtype}, expected (height, width) integers")
    return values.astype(np.int32) if values.dtype.itemsize > 2 else values.astype(np.uint16)


def _open(data: bytes, path: str, rules: DecodeRules) -> np.ndarray:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        if image.info.get("compression") in ("jpeg", "tiff_jpeg", "webp"):
            raise MaskError("lossy", path, f"TIFF with {image.info['compression']} inside")
        check_image(image, rules)
        orientation = orientation_of(image)
        image.load()
        return upright(_values(image, data), orientation)


def _values(image: Image.Image, data: bytes) -> np.ndarray:
    """-> (H, W) or (H, W, 3) of an open image; data: its file."""
    if image.mode in ("P", "1"):
        return np.asarray(image).astype(np.uint8)
    if image.mode[0] in "IF":
        values = gray_values(image)
        if values.dtype.kind == "f":
            raise DecodeError("fractions, expected integers")
        return values
    if image.mode in ("L", "LA", "PA"):
        values = np.asarray(image)
        values = values if values.ndim == 2 else values[..., 0]
        return values // _png_factor(data) if image.mode == "L" else values
    if image.mode in ("RGB", "RGBA"):
        if image.format == "PNG" and data[24] == 16:
            raise DecodeError("colours of 16 bits, expected 8 bits or a gray image")
        return np.asarray(image)[..., :3]
    raise DecodeError(f"Pillow mode {image.mode}, expected gray values, a palette or RGB")


def _png_factor(data: bytes) -> int:
    """-> the factor by which Pillow has scaled gray values of a PNG with 2 or 4 bits to 8 bits."""
    is_gray_png = data.startswith(b"\x89PNG") and data[25] == 0
    return {2: 85, 4: 17}.get(data[24], 1) if is_gray_png else 1
