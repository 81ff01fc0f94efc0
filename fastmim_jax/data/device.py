"""Flip and normalisation of a uint8 batch on the device."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

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
    flip: AnyArray,
    mean: Sequence[float | jax.Array],
    std: Sequence[float | jax.Array],
) -> jax.Array:
    """Flip, scale to [0, 1] and normalise.

    Args:
      images: (B, H, W, C) uint8.
      flip: (B,) bool, True mirrors an image left to right.
      mean, std: (C,) for pixels in [0, 1].

    Returns:
      (B, H, W, C) float32: (pixel / 255 - mean) / std.
    """
    images = jnp.where(flip[:, None, None, None], images[:, :, ::-1], images)
    pixels = images.astype(jnp.float32) / 255
    return (pixels - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)
