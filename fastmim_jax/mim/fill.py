"""How the features of thrown tokens are made from their neighbours', at next to no cost.

A fill is a Flax module: features (B, h, w, D), known (B, h, w) bool and stage (B, h, w), 0 or the stage in
which a thrown token is filled in -> features with all stages filled in.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from fastmim_jax.models.layers import sincos_positions, token_init

NEAREST = 4  # known cells that the inverse-distance mean is taken of


class Progressive(nn.Module):
    """Stage after stage, learned sums over the known neighbours; later stages see what earlier ones made.

    Attributes:
      stages: how many.
      radius: of the square neighbourhood, in cells.
    """

    stages: int
    radius: int

    @nn.compact
    def __call__(self, features, known, stage):
        neighbour_sum = nn.remat(NeighbourSum)  # computed again sooner than kept, it is that cheap
        for index in range(1, self.stages + 1):
            made = neighbour_sum(self.radius, name=f"stage_{index}")(features, known)
            features = jnp.where((stage == index)[..., None], made, features)
            known = known | (stage == index)
        return features


class NeighbourSum(nn.Module):
    """Sum over the known neighbours of each cell, with a learned weight per offset and channel.

    The weights begin as a Gaussian of one cell, whose sum over the known neighbours divides; so a cell
    begins as a mean of them. A learned token and the cell's position, learned per channel, are added.
    """

    radius: int

    @nn.compact
    def __call__(self, x, known):
        """(B, h, w, D) and (B, h, w) bool -> (B, h, w, D); a cell is no neighbour of itself."""
        _, rows, columns, width = x.shape
        span = range(-self.radius, self.radius + 1)
        offsets = [(down, right) for down in span for right in span if down or right]
        gauss = np.float32([math.exp(-(down**2 + right**2) / 2) for down, right in offsets])
        begin = lambda key, shape: jnp.broadcast_to(gauss[:, None], shape)  # noqa: E731
        kernel = self.param("kernel", begin, (len(offsets), width)).astype(x.dtype)
        token = self.param("thrown_token", token_init, (width,)).astype(x.dtype)
        scale = self.param("position_scale", nn.initializers.zeros, (width,)).astype(x.dtype)

        x = _padded(jnp.where(known[..., None], x, 0), self.radius)
        near = _padded(known[..., None].astype(jnp.float32), self.radius)

        def neighbour(array, offset):
            down, right = (self.radius + step for step in offset)
            return array[:, down : down + rows, right : right + columns]

        weighed = sum(own * neighbour(x, offset) for own, offset in zip(kernel, offsets, strict=True))
        total = sum(share * neighbour(near, offset) for share, offset in zip(gauss, offsets, strict=True))
        mean = weighed * (1 / jnp.maximum(total, gauss.min())).astype(x.dtype)
        return mean + token + scale * sincos_positions(rows, columns, width).astype(x.dtype)


def _padded(x, radius):
    return jnp.pad(x, ((0, 0), (radius, radius), (radius, radius), (0, 0)))


class InverseDistance(nn.Module):
    """Mean of the nearest known cells by the inverse of their squared distance; nothing is learned."""

    count: int = NEAREST

    def __call__(self, features, known, stage):
        batch, rows, columns, width = features.shape
        row, column = np.divmod(np.arange(rows * columns), columns)
        squares = np.square(row[:, None] - row) + np.square(column[:, None] - column)
        weight = np.float32(1 / np.maximum(squares, 1))
        weight = jnp.where(known.reshape(batch, 1, -1), weight, 0)
        weight, index = jax.lax.top_k(weight, self.count)  # (B, N, count)
        weight = weight / weight.sum(-1, keepdims=True)
        x = features.reshape(batch, -1, width)
        chosen = jax.vmap(lambda rows, index: rows[index])(x, index)
        made = jnp.einsum("bnk,bnkd->bnd", weight.astype(x.dtype), chosen).reshape(features.shape)
        return jnp.where((stage > 0)[..., None], made, features)


class Nearest(InverseDistance):
    """A copy of the nearest known cell; nothing is learned."""

    count: int = 1
