"""Planar YCbCr 4:2:0 as in JPEG: full-range BT.601, chroma at half the resolution, 1.5 bytes a pixel."""

import dataclasses
from typing import Any

import numpy as np

# JFIF 1.02, u = Cb - 128, v = Cr - 128: R = Y + RED_V v, G = Y + GREEN_U u + GREEN_V v, B = Y + BLUE_U u
RED_V, GREEN_U, GREEN_V, BLUE_U = 1.402, -0.344136286, -0.714136286, 1.772
LUMA = 0.299, 0.587, 0.114  # of R, G, B
CENTER = 128  # of a chroma sample without colour


@dataclasses.dataclass(frozen=True)
class Yuv420:
    """An image as three planes of uint8; they may be read-only views.

    Chroma sample (i, j) lies at the centre of the luma samples 2i, 2i + 1 x 2j, 2j + 1, as in JPEG: a box
    in luma pixels, divided by 2, is the same box of the chroma planes.

    Attributes:
      y: (H, W) luma.
      u, v: (ceil(H / 2), ceil(W / 2)) Cb and Cr.
    """

    y: np.ndarray
    u: np.ndarray
    v: np.ndarray

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, 3), the shape of the image in RGB."""
        return (*self.y.shape, 3)


def chroma_shape(height: int, width: int) -> tuple[int, int]:
    """Return the shape of the chroma planes of an image."""
    return (height + 1) // 2, (width + 1) // 2


def rgb_planes(y: Any, u: Any, v: Any) -> tuple[Any, Any, Any]:
    """Convert YCbCr to RGB.

    Args:
      y, u, v: floating-point arrays of one shape (NumPy or JAX), in [0, 255].

    Returns:
      (r, g, b), neither rounded nor clipped.
    """
    u, v = u - CENTER, v - CENTER
    return y + RED_V * v, y + (GREEN_U * u + GREEN_V * v), y + BLUE_U * u


def yuv_planes(r: Any, g: Any, b: Any) -> tuple[Any, Any, Any]:
    """Convert RGB to YCbCr, the inverse of `rgb_planes`; the chroma planes have the full resolution."""
    y = LUMA[0] * r + LUMA[1] * g + LUMA[2] * b
    return y, (b - y) / BLUE_U + CENTER, (r - y) / RED_V + CENTER


def from_rgb(image: np.ndarray) -> Yuv420:
    """Convert (H, W, 3) uint8 RGB; chroma is the mean of 2 x 2 pixels, rounded once."""
    y, u, v = yuv_planes(*(image[..., channel].astype(np.float32) for channel in range(3)))
    return Yuv420(_to_uint8(y), _to_uint8(_halve(u)), _to_uint8(_halve(v)))


def to_rgb(image: Yuv420) -> np.ndarray:
    """Convert to (H, W, 3) uint8 RGB; chroma is interpolated by libjpeg's triangle filter.

    R, G and B are luma plus an offset that is linear in the chroma: the offsets are computed at the
    resolution of the chroma and interpolated in 16-bit integers, with one rounding at the end.
    """
    height, width = image.y.shape
    luma, rgb = image.y.astype(np.int16), np.empty(image.shape, np.uint8)
    offsets = rgb_planes(np.float32(0), image.u.astype(np.float32), image.v.astype(np.float32))
    for channel, offset in enumerate(offsets):
        eighths = np.rint(offset * 8).astype(np.int16)  # at most 1,815, and 16 times that in the end
        interpolated = _double(_double(eighths, axis=0), axis=1)[:height, :width]
        interpolated += 64
        interpolated >>= 7
        interpolated += luma
        np.clip(interpolated, 0, 255, out=rgb[..., channel], casting="unsafe")
    return rgb


def _to_uint8(plane: np.ndarray) -> np.ndarray:
    return np.rint(plane).clip(0, 255).astype(np.uint8)


def _halve(plane: np.ndarray) -> np.ndarray:
    """Average 2 x 2 samples; an odd last row or column counts twice."""
    height, width = plane.shape
    if height % 2 or width % 2:
        plane = np.pad(plane, ((0, height % 2), (0, width % 2)), mode="edge")
    rows = plane[::2] + plane[1::2]
    return (rows[:, ::2] + rows[:, 1::2]) * 0.25


def _double(plane: np.ndarray, axis: int) -> np.ndarray:
    """Interpolate to twice the size: 3 times the nearer plus the farther sample; values grow fourfold."""
    shape = [2 * size if dim == axis else size for dim, size in enumerate(plane.shape)]
    doubled = np.empty(shape, plane.dtype)
    plane, nearer, out = (np.moveaxis(array, axis, 0) for array in (plane, 3 * plane, doubled))
    out[0], out[-1] = 4 * plane[0], 4 * plane[-1]
    np.add(nearer[1:], plane[:-1], out=out[2::2])
    np.add(nearer[:-1], plane[1:], out=out[1:-1:2])
    return doubled
