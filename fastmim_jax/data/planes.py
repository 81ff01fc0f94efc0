"""Crops of images that are stored as planes (YCbCr 4:2:0), without converting them on the host.

A crop is packed as I420: an array (3 H / 2, W) uint8 with the rows of Y, (H, W), and then the values of U
and of V, (H / 2, W / 2) each, in row-major order. `data.device` converts it to RGB.
"""

import numpy as np

from fastmim_jax.data.records.yuv import Yuv420, to_rgb
from fastmim_jax.data.resize import resample

LAYOUTS = ("rgb", "yuv420")  # of crops on their way to the devices


def fits_planes(size: tuple[int, int]) -> bool:
    """Return whether a crop of (height, width) can be packed: both are even."""
    return size[0] % 2 == 0 and size[1] % 2 == 0


def crop_shape(layout: str, size: tuple[int, int], channels: int) -> tuple[int, ...]:
    """Return the shape of a crop of (H, W) pixels: (H, W, C), or (3 H / 2, W) of packed planes."""
    height, width = size
    return (height, width, channels) if layout == "rgb" else (height * 3 // 2, width)


def resize_crop_planes(image: Yuv420, box: tuple[int, int, int, int], out: np.ndarray) -> np.ndarray:
    """Crop a box and resize every plane: bicubic, antialiased, without influence of luma outside the box.

    Args:
      image: (H, W) pixels; its planes may be views, only the box is read.
      box: (left, top, width, height) in integer pixels inside the image.
      out: (3 h / 2, w) uint8, contiguous, where the packed crop is written.

    Returns:
      out.
    """
    left, top, width, height = box
    out_height, out_width = len(out) * 2 // 3, out.shape[1]
    luma = image.y[top : top + height, left : left + width, None]
    resample(luma, (0, 0, width, height), out[:out_height, :, None])
    # U and V as two channels of one image: one call instead of two.
    first_row, first_column = top // 2, left // 2
    last_row, last_column = (top + height + 1) // 2, (left + width + 1) // 2
    chroma = np.empty((last_row - first_row, last_column - first_column, 2), np.uint8)
    chroma[..., 0] = image.u[first_row:last_row, first_column:last_column]
    chroma[..., 1] = image.v[first_row:last_row, first_column:last_column]
    small_box = left / 2 - first_column, top / 2 - first_row, width / 2, height / 2
    packed = out[out_height:].reshape(2, out_height // 2, out_width // 2)
    resample(chroma, small_box, packed.transpose(1, 2, 0))
    return out


def unpack_planes(crop: np.ndarray) -> Yuv420:
    """Return the planes of a packed crop (3 H / 2, W), as views."""
    height, width = len(crop) * 2 // 3, crop.shape[1]
    u, v = crop[height:].reshape(2, height // 2, width // 2)
    return Yuv420(crop[:height], u, v)


def crop_to_rgb(crop: np.ndarray) -> np.ndarray:
    """Return (H, W, 3) uint8 of a packed crop (3 H / 2, W)."""
    return to_rgb(unpack_planes(crop))
