"""Weighted means over the tokens of a batch; for a shard of it, its share, which add up to the mean."""

import jax.numpy as jnp
from jaxtyping import Bool, Float, Num

from fastmim_jax.models.device import sum_over_shards
from fastmim_jax.models.typing import Array


def masked_mse(
    prediction: Float[Array, "B h w P"],
    target: Float[Array, "B h w P"],
    weight: Num[Array, "B h w"] | Bool[Array, "B h w"],
) -> Float[Array, ""]:
    """Return the mean squared error over tokens and their values, float32.

    weight: of each token in the mean; a token of weight 0 may have any values, NaN too.
    """
    return _weighted_mean(jnp.square(prediction.astype(jnp.float32) - target), weight)


def masked_l1(
    prediction: Float[Array, "B h w P"],
    target: Float[Array, "B h w P"],
    weight: Num[Array, "B h w"] | Bool[Array, "B h w"],
) -> Float[Array, ""]:
    """Return the mean absolute error over tokens and their values; see `masked_mse` for the arguments."""
    return _weighted_mean(jnp.abs(prediction.astype(jnp.float32) - target), weight)


def _weighted_mean(error: Array, weight: Array) -> Array:
    return jnp.where(weight > 0, weight * error.mean(-1), 0.0).sum() / sum_over_shards(jnp.sum(weight))


def mean_target(
    target: Float[Array, "B h w P"], weight: Num[Array, "B h w"] | Bool[Array, "B h w"]
) -> Float[Array, " P"]:
    """Return the weighted mean of the targets of all tokens."""
    weight = weight[..., None]
    return jnp.where(weight > 0, weight * target, 0.0).sum((0, 1, 2)) / weight.sum()


NAMES = {masked_mse: "mean squared error", masked_l1: "mean absolute error"}
