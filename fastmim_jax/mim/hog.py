"""Histogram of oriented gradients of an image batch, on the device.

Source: FastMIM's `util/hog_layer.py` (after MaskFeat): Sobel gradients of every channel, a hard vote
for one of `bins` unsigned orientations, magnitudes summed over square cells, no block normalisation.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int, Shaped

from fastmim_jax.models.typing import Array

SMALLEST_NORM = 1e-12
# Gradients below this are set to zero. Sums of normalised 8-bit pixels that cancel exactly leave up to 2e-6
# in float32; their smallest true gradient is 0.01. Otherwise rounding, which differs between compiled
# programs, would decide the bin of every tie at gx = 0.
ROUNDING = 4e-6


def hog(
    images: Shaped[Array, "B H W C"],
    bins: int = 9,
    cell: int = 8,
    normalize: bool = True,
    gaussian_window: int = 0,
) -> Float[Array, "B h w P"]:
    """Compute the HOG of every cell and channel.

    Args:
      images: (B, H, W, C), any float or integer type, normalised to a scale of about 1 or 8-bit;
        H and W multiples of `cell`.
      bins: unsigned orientations over 180 degrees; a direction and its opposite share a bin.
      cell: side of a cell in pixels.
      normalize: divide the `bins` values of each cell and channel by their L2 norm.
      gaussian_window: side in pixels of a Gaussian (sigma: half the side) that is tiled over the image and
        weights the magnitudes; 0 for none, as in every FastMIM recipe.

    Returns:
      (B, H/cell, W/cell, C*bins) float32, channel-major: entry c*bins + b is bin b of channel c.
      A pixel exactly on an edge between two bins belongs to the upper one. A zero gradient does not vote,
      so a constant image gives zeros.

    Raises:
      ValueError: sides that `cell` or `gaussian_window` does not divide.

    >>> import jax.numpy as jnp
    >>> images = jnp.zeros((1, 16, 24, 3)).at[:, :, 12:].set(1.0)  # a vertical edge
    >>> hog(images).shape
    (1, 2, 3, 27)
    >>> hog(images)[0, 0, 1, :9].round(1)
    Array([0., 0., 0., 0., 1., 0., 0., 0., 0.], dtype=float32)
    """
    batch, height, width, channels = images.shape
    if height % cell or width % cell:
        raise ValueError(f"HOG needs sides that are multiples of {cell}, got {height}x{width} pixels")
    if gaussian_window and (height % gaussian_window or width % gaussian_window):
        raise ValueError(f"Gaussian window {gaussian_window} does not divide {height}x{width} pixels")
    gradients = sobel(jax.lax.stop_gradient(images).astype(jnp.float32))
    gx, gy = (jnp.where(jnp.abs(g) < ROUNDING, 0.0, g) for g in gradients)
    magnitude = jnp.sqrt(gx * gx + gy * gy)
    if gaussian_window:
        magnitude = magnitude * _tiled_gaussian(gaussian_window, height, width)[:, :, None]
    votes = orientation_bin(gx, gy, bins)

    def by_cell(x: Array) -> Array:
        return x.reshape(batch, height // cell, cell, width // cell, cell, channels)

    histogram = _sum_per_bin(by_cell(magnitude), by_cell(votes), bins)
    if normalize:
        norm = jnp.sqrt(jnp.square(histogram).sum(-1, keepdims=True))
        histogram = histogram / jnp.maximum(norm, SMALLEST_NORM)
    return histogram.reshape(batch, height // cell, width // cell, channels * bins)


def sobel(
    images: Float[Array, "B H W C"],
) -> tuple[Float[Array, "B H W C"], Float[Array, "B H W C"]]:
    """Return the gradients gx (left minus right) and gy (top minus bottom), with reflected borders."""
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    # Differences before sums, so that the difference is exactly zero on the reflected border.
    across = padded[:, :, :-2] - padded[:, :, 2:]
    down = padded[:, :-2] - padded[:, 2:]
    gx = across[:, :-2] + 2 * across[:, 1:-1] + across[:, 2:]
    gy = down[:, :, :-2] + 2 * down[:, :, 1:-1] + down[:, :, 2:]
    return gx, gy


def orientation_bin(
    gx: Float[Array, " *shape"], gy: Float[Array, " *shape"], bins: int
) -> Int[Array, " *shape"]:
    """Return floor(atan2(gx, gy) / pi * bins) modulo `bins`, by comparisons instead of atan2.

    The gradient is rotated into the half plane of angles [0, pi); it has passed the edge at angle a if it
    lies to the left of that edge, cos(a) * gx >= sin(a) * gy.
    """
    lower = (gx < 0) | ((gx == 0) & (gy < 0))
    gx, gy = jnp.where(lower, -gx, gx), jnp.where(lower, -gy, gy)
    index = jnp.zeros(gx.shape, jnp.int32)
    for k in range(1, bins):
        angle = math.pi * k / bins
        cosine = 0.0 if 2 * k == bins else math.cos(angle)
        index = index + (cosine * gx >= math.sin(angle) * gy)
    return index


def _sum_per_bin(magnitude: Array, votes: Array, bins: int) -> jax.Array:
    """Sum magnitudes per bin: (B, h, cell, w, cell, C) twice -> (B, h, w, C, bins).

    A variadic reduction of `bins` operands: the selections fuse into it, and pixels are read once. With
    `bins` separate sums, or a one-hot product, XLA stores `bins` copies of the image.
    """
    selected = tuple(jnp.where(votes == b, magnitude, 0.0) for b in range(bins))

    def add(left: tuple, right: tuple) -> tuple:
        return tuple(map(jax.lax.add, left, right))

    sums = jax.lax.reduce(selected, (jnp.float32(0),) * bins, add, (2, 4))
    return jnp.stack(sums, axis=-1)


def _tiled_gaussian(window: int, height: int, width: int) -> jax.Array:
    """(H, W) weights: a Gaussian of sum 1 and standard deviation window // 2, tiled."""
    offsets = jnp.arange(window) - (window - 1) / 2
    profile = jnp.exp(-0.5 * jnp.square(offsets / (window // 2)))
    kernel = jnp.outer(profile, profile)
    return jnp.tile(kernel / kernel.sum(), (height // window, width // window))
