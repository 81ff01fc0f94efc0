"""Crops on the device: antialiased bicubic resizing of boxes of whole images, as Pillow resizes.

A crop is two matrix products, of columns and then of rows, whose weights follow from its box. So boxes may
differ from image to image while all shapes are static. Pillow and cykooz round between the two as well.
"""

import jax
import jax.numpy as jnp

from fastmim_jax.data.device import AnyArray
from fastmim_jax.data.values import WHITE

_A = -0.5  # of the cubic, as in Pillow (Catmull-Rom)


def resize_crops(canvases: AnyArray, boxes: AnyArray, size: tuple[int, int]) -> jax.Array:
    """Crop a box of every image and resize it, without influence of pixels outside the box.

    The host's crop is `augment.resize_crop`: at least 50 dB against it.

    Args:
      canvases: (B, H, W, C) uint8, uint16 or float32.
      boxes: (B, 4) integers: left, top, width, height, in pixels inside the canvas.
      size: (h, w) of a crop.

    Returns:
      (B, h, w, C) of the same dtype.
    """
    left, top, width, height = _split(boxes)
    rows = _weights(top, height, top, top + height, canvases.shape[1], size[0])
    columns = _weights(left, width, left, left + width, canvases.shape[2], size[1])
    return _resample(canvases, rows, columns)


def resize_crops_planes(canvases: AnyArray, boxes: AnyArray, size: tuple[int, int]) -> jax.Array:
    """Crop a box of every image and resize its planes, as `planes.resize_crop_planes` does on the host.

    Args:
      canvases: (B, 3 H / 2, W) uint8, packed, see `planes`.
      boxes: (B, 4) integers: left, top, width, height, in luma pixels inside the canvas.
      size: (h, w) of a crop, even.

    Returns:
      (B, 3 h / 2, w) uint8, packed.
    """
    batch, rows, columns = canvases.shape
    canvases, height = jnp.asarray(canvases), rows * 2 // 3
    luma = resize_crops(canvases[:, :height, :, None], boxes, size)
    chroma = canvases[:, height:].reshape(batch, 2, height // 2, columns // 2).transpose(0, 2, 3, 1)
    left, top, box_width, box_height = _split(boxes)
    across_rows = _half_weights(top, box_height, height // 2, size[0] // 2)
    across_columns = _half_weights(left, box_width, columns // 2, size[1] // 2)
    chroma = _resample(chroma, across_rows, across_columns)
    packed = chroma.transpose(0, 3, 1, 2).reshape(batch, size[0] // 2, size[1])
    return jnp.concatenate([luma[..., 0], packed], axis=1)


def _split(boxes):
    return jnp.unstack(jnp.asarray(boxes).astype(jnp.float32), axis=1)


def _half_weights(start, length, samples, size):
    """Return the weights of a chroma plane: half the box, and every sample that it touches."""
    low, high = jnp.floor(start / 2), jnp.ceil((start + length) / 2)
    return _weights(start / 2, length / 2, low, high, samples, size)


def _weights(start, length, low, high, samples, size):
    """Return (B, size, samples) float32: of every sample in every pixel of the results, sums of 1.

    Args:
      start, length: (B,) of the boxes along an axis, in samples; fractions are allowed.
      low, high: (B,) samples from `low` to below `high` are read.
      samples, size: of the axis of the canvas, of that of the result.
    """
    scale = (length / size)[:, None, None]
    center = start[:, None, None] + (jnp.arange(size, dtype=jnp.float32)[:, None] + 0.5) * scale
    sample = jnp.arange(samples, dtype=jnp.float32)
    distance = (sample + 0.5 - center) / jnp.maximum(scale, 1)  # antialiased: wider where it shrinks
    inside = (sample >= low[:, None, None]) & (sample < high[:, None, None])
    weights = jnp.where(inside, _cubic(jnp.abs(distance)), 0)
    return weights / weights.sum(axis=2, keepdims=True)


def _cubic(x):
    near = ((_A + 2) * x - (_A + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * _A - 4 * _A
    return jnp.where(x < 1, near, jnp.where(x < 2, far, 0))


def _resample(images, rows, columns):
    """Return (B, h, w, C) of images (B, H, W, C), the same dtype; rows: (B, h, H), columns: (B, w, W)."""
    product = {"precision": jax.lax.Precision.HIGHEST, "preferred_element_type": jnp.float32}
    dtype, images = images.dtype, jnp.asarray(images).astype(jnp.float32)
    narrow = jnp.einsum("bxw,bhwc->bhxc", columns, images, **product)
    narrow = _fit(narrow, dtype) if dtype.kind == "u" else narrow  # as the host's libraries do
    return _fit(jnp.einsum("byh,bhxc->byxc", rows, narrow, **product), dtype).astype(dtype)


def _fit(pixels, dtype):
    """Round to integers where the dtype is one, and clip what the filter overshoots."""
    rounded = jnp.round(pixels) if dtype.kind == "u" else pixels
    return jnp.clip(rounded, 0, WHITE[dtype.name])
