"""Histogram of oriented gradients of an image batch, on the device.

Source: FastMIM's `util/hog_layer.py` (after MaskFeat): Sobel gradients of every channel, a hard vote
for one of `bins` unsigned orientations, magnitudes summed over square cells, no block normalisation.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

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
    weights = _tiled_gaussian(gaussian_window, height, width) if gaussian_window else None
    options: dict[str, Any] = dict(bins=bins, cell=cell, weights=weights)
    histogram = jax.lax.platform_dependent(
        jax.lax.stop_gradient(images).astype(jnp.float32),
        tpu=partial(histograms_by_row, **options),
        cpu=partial(histograms, sobel=sobel, **options),
        default=partial(histograms, sobel=sobel_by_shifts, **options),
    )
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


def sobel_by_shifts(
    images: Float[Array, "B H W C"],
) -> tuple[Float[Array, "B H W C"], Float[Array, "B H W C"]]:
    """Return what `sobel` returns, without a padded copy of the images.

    Shifts that bring in zeros fuse into one GPU kernel; a reflected border is made of concatenations, which
    do not. On CPUs every shifted image is stored instead.
    """
    return _smooth(_difference(images, 2), 1), _smooth(_difference(images, 1), 2)


def _difference(x: Array, axis: int) -> jax.Array:
    """Return the previous minus the next element along an axis; zero at the reflected ends."""
    inner = _slice(x, axis, 0, -2) - _slice(x, axis, 2, None)
    return _pad(inner, axis, 1, 1)


def _smooth(x: Array, axis: int) -> jax.Array:
    """Return previous + 2 * element + next along an axis, with reflected ends."""
    count = x.shape[axis]
    previous = _pad(x, axis, 1, -1) + _pad(_slice(x, axis, 1, 2), axis, 0, count - 1)
    following = _pad(x, axis, -1, 1) + _pad(_slice(x, axis, -2, -1), axis, count - 1, 0)
    return previous + 2 * x + following


def _slice(x: Array, axis: int, start: int, stop: int | None) -> jax.Array:
    start, stop, _ = slice(start, stop).indices(x.shape[axis])
    return jax.lax.slice_in_dim(x, start, stop, axis=axis)


def _pad(x: Array, axis: int, before: int, after: int) -> jax.Array:
    """Pad an axis with zeros; negative numbers cut."""
    widths = [(before, after, 0) if a == axis else (0, 0, 0) for a in range(x.ndim)]
    return jax.lax.pad(x, jnp.zeros((), x.dtype), widths)


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


def histograms(
    images: Float[Array, "B H W C"],
    *,
    bins: int,
    cell: int,
    weights: Float[Array, "H W"] | None,
    sobel: Callable,
) -> Float[Array, "B h w C bins"]:
    """Return the histograms of all cells, not normalised.

    Args:
      images: (B, H, W, C) float32.
      bins, cell: see `hog`.
      weights: (H, W) of the magnitudes, or None.
      sobel: `sobel` or `sobel_by_shifts`.
    """
    gx, gy = sobel(images)
    magnitude, votes = _magnitude_and_bin(gx, gy, bins, weights)
    # Stored once as 5 bytes a pixel; otherwise every bin's mask is stored.
    magnitude, votes = jax.lax.optimization_barrier((magnitude, votes.astype(jnp.int8)))
    return _sum_per_bin(magnitude, votes, bins, cell)


def histograms_by_row(
    images: Float[Array, "B H W C"], *, bins: int, cell: int, weights: Float[Array, "H W"] | None
) -> Float[Array, "B h w C bins"]:
    """Return what `histograms` returns, one row of cells at a time.

    In a whole image XLA does not fuse the selections of the bins into their sums on TPUs, and stores `bins`
    copies of the images; in a row of cells it does.
    """
    padded = jnp.pad(images, ((0, 0), (1, 1), (0, 0), (0, 0)), mode="reflect")

    def row(index: Array) -> jax.Array:
        rows = jax.lax.dynamic_slice_in_dim(padded, index * cell, cell + 2, axis=1)
        rows = jnp.pad(rows, ((0, 0), (0, 0), (1, 1), (0, 0)), mode="reflect")
        own = None if weights is None else jax.lax.dynamic_slice_in_dim(weights, index * cell, cell)
        magnitude, votes = _magnitude_and_bin(*_sobel_of_neighbours(rows), bins, own)
        return _sum_per_bin(magnitude, votes, bins, cell)[:, 0]

    return jnp.moveaxis(jax.lax.map(row, jnp.arange(images.shape[1] // cell)), 0, 1)


def _sobel_of_neighbours(padded: Array) -> tuple[Array, Array]:
    """Return (gx, gy) (B, H, W, C) of images (B, H+2, W+2, C), as sums of slices.

    Differences are computed again for each sum, so that all fuse into one kernel.
    """
    height, width = padded.shape[1] - 2, padded.shape[2] - 2

    def at(row: int, column: int) -> Array:
        return padded[:, row : row + height, column : column + width]

    gx = (at(0, 0) - at(0, 2)) + 2 * (at(1, 0) - at(1, 2)) + (at(2, 0) - at(2, 2))
    gy = (at(0, 0) - at(2, 0)) + 2 * (at(0, 1) - at(2, 1)) + (at(0, 2) - at(2, 2))
    return gx, gy


def _magnitude_and_bin(gx: Array, gy: Array, bins: int, weights: Array | None) -> tuple[Array, Array]:
    """Return the weighted magnitudes of gradients (B, H, W, C), and the bins they vote for."""
    gx, gy = (jnp.where(jnp.abs(g) < ROUNDING, 0.0, g) for g in (gx, gy))
    magnitude = jnp.sqrt(gx * gx + gy * gy)
    if weights is not None:
        magnitude = magnitude * weights[:, :, None]
    return magnitude, orientation_bin(gx, gy, bins)


def _sum_per_bin(magnitude: Array, votes: Array, bins: int, cell: int) -> jax.Array:
    """Sum magnitudes per cell and bin: (B, H, W, C) twice -> (B, h, w, C, bins).

    A variadic reduction of `bins` operands: the selections fuse into it, and pixels are read once. With
    `bins` separate sums, or a one-hot product, XLA stores `bins` copies of the image.
    """
    batch, height, width, channels = magnitude.shape
    magnitude, votes = (
        x.reshape(batch, height // cell, cell, width // cell, cell, channels) for x in (magnitude, votes)
    )
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
