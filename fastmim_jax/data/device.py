"""Flip and normalisation of a batch of pixels on the device."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from fastmim_jax.data.records.yuv import rgb_planes
from fastmim_jax.data.values import WHITE

AnyArray = jax.Array | np.ndarray


def channel_statistics(channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the default (mean, std) per channel of pixels in [0, 1]: ImageNet's for 3 and 1 channels."""
    if channels == 3:
        return (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    if channels == 1:
        return (0.449,), (0.226,)
    return (0.5,) * channels, (0.25,) * channels


@jax.jit
def normalize(
    images: AnyArray,
    flip: AnyArray | None,
    mean: Sequence[float | jax.Array],
    std: Sequence[float | jax.Array],
) -> jax.Array:
    """Flip, scale to [0, 1] and normalise.

    Args:
      images: (B, H, W, C) uint8 in [0, 255], uint16 in [0, 65535] or float32 in [0, 1].
      flip: (B,) bool, True mirrors an image left to right; None mirrors none.
      mean, std: (C,) for pixels in [0, 1].

    Returns:
      (B, H, W, C) float32: (pixel / white - mean) / std, with the largest pixel of the dtype as white.
    """
    return _normalize(images, flip, mean, std, WHITE[images.dtype.name])


@jax.jit
def normalize_planes(
    planes: AnyArray,
    flip: AnyArray,
    mean: Sequence[float | jax.Array],
    std: Sequence[float | jax.Array],
) -> jax.Array:
    """Convert packed planes to RGB, then flip, scale to [0, 1] and normalise.

    Args:
      planes: (B, 3 H / 2, W) uint8, see `planes`.
      flip, mean, std: see `normalize`; C is 3.

    Returns:
      See `normalize`.
    """
    return _normalize(planes_to_rgb(planes), flip, mean, std, WHITE["uint8"])


def planes_to_rgb(planes: AnyArray) -> jax.Array:
    """Return (B, H, W, 3) float32 in [0, 255] of packed planes (B, 3 H / 2, W) uint8.

    Equal to `records.yuv.to_rgb` (libjpeg's triangle filter for chroma) before colours are rounded.
    """
    batch, rows, width = planes.shape
    height = rows * 2 // 3
    planes = jnp.asarray(planes).astype(jnp.float32)
    chroma = planes[:, height:].reshape(batch, 2, height // 2, width // 2)
    chroma = _double(_double(chroma, axis=2), axis=3)
    rgb = jnp.stack(rgb_planes(planes[:, :height], chroma[:, 0], chroma[:, 1]), axis=-1)
    return jnp.clip(rgb, 0, 255)


def _double(x, axis):
    """Interpolate to twice the length of an axis: 3/4 of the nearer and 1/4 of the farther sample."""
    length = x.shape[axis]
    before = jnp.concatenate([_part(x, axis, 0, 1), _part(x, axis, 0, length - 1)], axis)
    after = jnp.concatenate([_part(x, axis, 1, length), _part(x, axis, length - 1, length)], axis)
    pairs = jnp.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], axis + 1)
    return pairs.reshape(*x.shape[:axis], 2 * length, *x.shape[axis + 1 :])


def _part(x, axis, start, stop):
    return jax.lax.slice_in_dim(x, start, stop, axis=axis)


def _normalize(images, flip, mean, std, white):
    if flip is not None:
        images = jnp.where(flip[:, None, None, None], images[:, :, ::-1], images)
    pixels = images.astype(jnp.float32) / white
    return (pixels - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)
