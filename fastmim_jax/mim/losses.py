"""Masked reductions."""

import jax.numpy as jnp


def masked_mean_square(prediction, target, mask):
    """Mean squared error over the hidden tokens and their values.

    prediction, target: (B, h, w, P); mask: (B, h, w), 1 = hidden, at least one. Returns a float32 scalar.
    """
    error = jnp.square(prediction.astype(jnp.float32) - target).mean(-1)
    return jnp.where(mask > 0, error, 0.0).sum() / mask.sum()


def target_moments(target, mask):
    """Count (), sum (P,) and sum of squares (P,) of the targets (B, h, w, P) of the hidden tokens."""
    hidden = jnp.where(mask[..., None] > 0, target, 0.0)
    return mask.sum(), hidden.sum((0, 1, 2)), jnp.square(hidden).sum((0, 1, 2))
