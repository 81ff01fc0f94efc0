"""What is predicted: HOG or pixels of every token, taken from the whole (unhidden) image.

A target is made for tokens of `size` pixels as (B, h, w, P); `split` regroups such an array for finer
tokens, where hidden blocks are smaller than the tokens of the backbone.
"""

import dataclasses

import jax.numpy as jnp

from fastmim_jax.mim.hog import hog
from fastmim_jax.models.layers import patchify, unpatchify

VARIANCE_EPSILON = 1e-6


@dataclasses.dataclass(frozen=True)
class HOG:
    """HOG of the u x u cells of a token; P = C*bins*u*u in (channel, bin, row, column) order.

    `normalize` divides each histogram by its norm; it is what the published flag for normalised
    pixels does to HOG, and both published recipes set it.
    """

    normalize: bool = True
    bins: int = 9
    cell: int = 8

    @property
    def unit(self):
        """Tokens are made of squares of this many pixels."""
        return self.cell

    def values(self, size, channels):
        """P of a token of `size` pixels."""
        return channels * self.bins * (size // self.cell) ** 2

    def __call__(self, images, size):
        """(B, H, W, C) -> (B, H/size, W/size, P) float32."""
        return self.merge(hog(images, self.bins, self.cell, self.normalize), size // self.cell)

    def merge(self, cells, side):
        """(B, h*side, w*side, K) -> (B, h, w, K*side*side)."""
        batch, rows, columns, values = cells.shape
        x = cells.reshape(batch, rows // side, side, columns // side, side, values)
        return x.transpose(0, 1, 3, 5, 2, 4).reshape(batch, rows // side, columns // side, -1)

    def split(self, tokens, parts, size):
        """(B, h, w, P) of tokens of `size` pixels -> (B, h*parts, w*parts, P/parts**2)."""
        side = size // self.cell
        batch, rows, columns, _ = tokens.shape
        x = tokens.reshape(batch, rows, columns, -1, side, side)
        cells = x.transpose(0, 1, 4, 2, 5, 3).reshape(batch, rows * side, columns * side, -1)
        return self.merge(cells, side // parts)


@dataclasses.dataclass(frozen=True)
class Pixels:
    """Pixels of a token, P = size*size*C in (row, column, channel) order.

    `normalize` subtracts each token's mean and divides by its standard deviation (unbiased).
    """

    normalize: bool = True

    unit = 1

    def values(self, size, channels):
        """P of a token of `size` pixels."""
        return size * size * channels

    def __call__(self, images, size):
        """(B, H, W, C) -> (B, H/size, W/size, P) float32."""
        patches = patchify(images.astype(jnp.float32), size)
        if not self.normalize:
            return patches
        mean, std = patch_statistics(patches)
        return (patches - mean) / std

    def split(self, tokens, parts, size):
        """(B, h, w, P) of tokens of `size` pixels -> (B, h*parts, w*parts, P/parts**2)."""
        return patchify(unpatchify(tokens, size), size // parts)


def patch_statistics(patches):
    """(B, h, w, P) -> mean and standard deviation of each patch, both (B, h, w, 1)."""
    variance = patches.var(-1, keepdims=True, ddof=1)
    return patches.mean(-1, keepdims=True), jnp.sqrt(variance + VARIANCE_EPSILON)


TARGETS = {"hog": HOG, "pixel": Pixels}
