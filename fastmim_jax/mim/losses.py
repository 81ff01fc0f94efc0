"""Weighted reductions over the tokens of a batch."""

import jax.numpy as jnp


def masked_mean_square(prediction, target, weight):
    """Mean squared error over the hidden tokens and their values.

    prediction, target: (B, h, w, P); weight: (B, h, w), 0 where the loss does not count, 1 (or another
    weight) where it does. Returns a float32 scalar.
    """
    return _mean(jnp.square(prediction.astype(jnp.float32) - target), weight)


def masked_mean_absolute(prediction, target, weight):
    """Mean absolute error over the hidden tokens and their values; arguments as `masked_mean_square`."""
    return _mean(jnp.abs(prediction.astype(jnp.float32) - target), weight)


def _mean(error, weight):
    return jnp.where(weight > 0, weight * error.mean(-1), 0.0).sum() / weight.sum()


def mean_target(target, weight):
    """Mean (P,) of the targets (B, h, w, P), weighted by (B, h, w)."""
    weight = weight[..., None]
    return jnp.where(weight > 0, weight * target, 0.0).sum((0, 1, 2)) / weight.sum()
