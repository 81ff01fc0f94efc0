"""Coloured and coarse masking noise: where masked cells lie relative to one another.

Colours are those of ColorMAE (arXiv 2407.13036): uniform (white) noise, filtered by Gaussian blurs G.

    red     G_wide * W                  low-pass: few large patches of masked cells
    green   G_narrow * W - G_wide * W   band-pass: clusters of a few cells, the paper's choice
    blue    W - G_narrow * W            high-pass: masked cells spread evenly
    purple  W - green                   band-stop

Its authors published finished patterns, not the widths of the blurs: those here are ours, in cells. Here,
noise is drawn anew for every image and filtered on the torus, so that all cells are masked equally often.
"""

import math
from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Float, Int

from fastmim_jax.mim.masking import reorder_noise
from fastmim_jax.models.layers import upsample_nearest
from fastmim_jax.models.typing import Array

NARROW, WIDE = 0.75, 1.5  # standard deviations of the blurs, in cells
# Integers make the filters exact, so that masks do not depend on the device or the order of a sum.
NOISE_BITS, TAP_BITS = 12, 8


def arrange_noise(
    noise: Float[Array, "B N"], grid: tuple[int, int], color: str = "white", cell: int = 1
) -> Float[Array, "B N"]:
    """Return the numbers of the noise in another order, in which the mask has a colour and a cell size.

    The mask stays a function of the order of the noise: all that uses the noise works as before.

    Args:
      noise: one uniform number per block, in row-major order.
      grid: (rows, columns) of blocks, both multiples of `cell`.
      color: a key of COLORS.
      cell: side in blocks of the squares that are masked or visible as a whole (the mask grid of Pixio,
        arXiv 2512.15715). The noise of their first blocks decides.
    """
    if color == "white" and cell == 1:
        return noise
    coarse = noise.reshape(-1, *grid)[:, ::cell, ::cell]
    scores = upsample_nearest(COLORS[color](coarse), cell)
    return reorder_noise(noise, scores.reshape(noise.shape))


def _to_integers(noise: Float[Array, "B h w"]) -> Int[Array, "B h w"]:
    return jnp.round((noise - 0.5) * 2**NOISE_BITS).astype(jnp.int32)


def blur(x: Int[Array, "B h w"], sigma: float) -> Int[Array, "B h w"]:
    """Return a grid blurred by a Gaussian on the torus, times 4**TAP_BITS."""
    taps = gaussian_taps(sigma)
    radius = len(taps) // 2
    for axis in (1, 2):
        shifted = [tap * jnp.roll(x, step, axis) for step, tap in enumerate(taps, -radius)]
        x = jnp.stack(shifted).sum(0)
    return x


def gaussian_taps(sigma: float) -> tuple[int, ...]:
    """Return the weights of a 1-D Gaussian, up to 3 standard deviations, as integers of sum 2**TAP_BITS."""
    radius = math.ceil(3 * sigma)
    weights = [math.exp(-0.5 * (step / sigma) ** 2) for step in range(-radius, radius + 1)]
    taps = [round(2**TAP_BITS * weight / sum(weights)) for weight in weights]
    taps[radius] += 2**TAP_BITS - sum(taps)
    return tuple(taps)


def _red(noise: Array) -> Array:
    return blur(_to_integers(noise), WIDE)


def _green(noise: Array) -> Array:
    x = _to_integers(noise)
    return blur(x, NARROW) - blur(x, WIDE)


def _blue(noise: Array) -> Array:
    x = _to_integers(noise)
    return x * 4**TAP_BITS - blur(x, NARROW)


def _purple(noise: Array) -> Array:
    return _to_integers(noise) * 4**TAP_BITS - _green(noise)


# Uniform noise (B, h, w) -> numbers in whose order cells become visible.
COLORS: dict[str, Callable[[Array], Array]] = {
    "white": lambda noise: noise,
    "green": _green,
    "blue": _blue,
    "red": _red,
    "purple": _purple,
}
