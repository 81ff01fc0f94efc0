"""Fills: cheap features for thrown tokens, computed from the features of their neighbours.

A fill is a Flax module: features (B, h, w, D), observed (B, h, w) bool and stage (B, h, w), 0 or the stage
that fills in a thrown token -> features with all stages filled in.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from fastmim_jax.models.layers import token_init
from fastmim_jax.models.linear import broadcast_parameter
from fastmim_jax.models.positions import sincos_positions
from fastmim_jax.models.typing import Array

NUM_NEIGHBOURS = 4  # observed cells in an inverse-distance mean


class Progressive(nn.Module):
    """Learned sums over the observed neighbours, in stages; later stages also observe earlier ones.

    Attributes:
      stages: number of stages.
      radius: of the square neighbourhood, in cells.
    """

    stages: int
    radius: int

    @nn.compact
    def __call__(
        self,
        features: Float[Array, "B h w D"],
        observed: Bool[Array, "B h w"],
        stage: Int[Array, "B h w"],
    ) -> Float[Array, "B h w D"]:
        """Return the features with thrown tokens filled in."""
        neighbour_sum = nn.remat(NeighbourSum)  # remat: cheaper to recompute than to store
        for index in range(1, self.stages + 1):
            filled = neighbour_sum(self.radius, name=f"stage_{index}")(features, observed)
            features = jnp.where((stage == index)[..., None], filled, features)
            observed = observed | (stage == index)
        return features


class NeighbourSum(nn.Module):
    """Sum over the observed neighbours of each cell, with a learned weight per offset and channel.

    Weights are initialised as a Gaussian of standard deviation 1 cell and divided by its sum over the
    observed neighbours, so that the initial output is their mean. A learned token and position, scaled per
    channel, are added.
    """

    radius: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "B h w D"], observed: Bool[Array, "B h w"]
    ) -> Float[Array, "B h w D"]:
        """Return the sums; a cell is no neighbour of itself."""
        _, rows, columns, width = x.shape
        span = range(-self.radius, self.radius + 1)
        offsets = [(down, right) for down in span for right in span if down or right]
        gaussian = np.array([math.exp(-(down**2 + right**2) / 2) for down, right in offsets], np.float32)
        init = lambda key, shape: jnp.broadcast_to(gaussian[:, None], shape)  # noqa: E731
        kernel = self.param("kernel", init, (len(offsets), width))
        token = self.param("thrown_token", token_init, (width,))
        scale = self.param("position_scale", nn.initializers.zeros, (width,))

        padded = _pad(jnp.where(observed[..., None], x, 0), self.radius)
        padded_observed = _pad(observed[..., None].astype(jnp.float32), self.radius)

        def neighbour(array: Array, offset: tuple[int, int]) -> Array:
            down, right = (self.radius + step for step in offset)
            return array[:, down : down + rows, right : right + columns]

        weighted = sum(
            broadcast_parameter(w, x) * neighbour(padded, offset)
            for w, offset in zip(kernel, offsets, strict=True)
        )
        total = sum(
            w * neighbour(padded_observed, offset) for w, offset in zip(gaussian, offsets, strict=True)
        )
        mean = weighted * (1 / jnp.maximum(total, gaussian.min())).astype(x.dtype)
        positions = sincos_positions(rows, columns, width).astype(x.dtype)
        return mean + broadcast_parameter(token, mean) + broadcast_parameter(scale, mean) * positions


def _pad(x: Array, radius: int) -> jax.Array:
    return jnp.pad(x, ((0, 0), (radius, radius), (radius, radius), (0, 0)))


class InverseDistance(nn.Module):
    """Mean of the nearest observed cells by their inverse squared distance; without parameters."""

    num_neighbours: int = NUM_NEIGHBOURS

    def __call__(
        self,
        features: Float[Array, "B h w D"],
        observed: Bool[Array, "B h w"],
        stage: Int[Array, "B h w"],
    ) -> Float[Array, "B h w D"]:
        """Return the features with thrown tokens filled in."""
        batch, rows, columns, width = features.shape
        row, column = np.divmod(np.arange(rows * columns), columns)
        squares = np.square(row[:, None] - row) + np.square(column[:, None] - column)
        inverse = (1 / np.maximum(squares, 1)).astype(np.float32)
        weight = jnp.where(observed.reshape(batch, 1, -1), inverse, 0)
        weight, index = jax.lax.top_k(weight, self.num_neighbours)  # (B, N, num_neighbours)
        weight = weight / weight.sum(-1, keepdims=True)
        x = features.reshape(batch, -1, width)
        neighbours = jax.vmap(lambda rows, index: rows[index])(x, index)
        filled = jnp.einsum("bnk,bnkd->bnd", weight.astype(x.dtype), neighbours).reshape(features.shape)
        return jnp.where((stage > 0)[..., None], filled, features)


class Nearest(InverseDistance):
    """A copy of the nearest observed cell; without parameters."""

    num_neighbours: int = 1
