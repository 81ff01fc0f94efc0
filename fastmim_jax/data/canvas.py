"""Whole images on their way to the devices: padded to one shape, and cropped there by `device_crop`."""

import numpy as np

from fastmim_jax.data.planes import crop_shape, unpack_planes
from fastmim_jax.data.records.yuv import Yuv420


def canvas_shape(layout: str, size: tuple[int, int], channels: int) -> tuple[int, ...]:
    """Return the shape of an array that holds images of at most `size` (H, W); its sides are even."""
    height, width = (side + side % 2 for side in size)
    return crop_shape(layout, (height, width), channels)


def write_canvas(image: np.ndarray | Yuv420 | None, out: np.ndarray) -> None:
    """Write an image to the top left of a canvas, and 0 elsewhere.

    Args:
      image: (h, w, C) of the dtype of `out`, or planes; None for an empty canvas.
      out: contiguous: (H, W, C) or for planes (3 H / 2, W), see `canvas_shape`; h <= H, w <= W.
    """
    if image is None:
        out[...] = 0
    elif isinstance(image, Yuv420):
        planes = unpack_planes(out)
        for plane, part in ((image.y, planes.y), (image.u, planes.u), (image.v, planes.v)):
            _pad(plane, part)
    else:
        _pad(image, out)


def _pad(array, out):
    height, width = array.shape[:2]
    out[:height, :width] = array
    out[:height, width:] = 0
    out[height:] = 0
