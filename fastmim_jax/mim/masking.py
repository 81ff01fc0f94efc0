"""Noise -> masks. 1 (True) means hidden everywhere."""

import jax.numpy as jnp


def num_visible(cells, mask_ratio):
    """How many of `cells` stay visible, rounded down in double precision as published."""
    return int(cells * (1 - mask_ratio))


def shuffle_ids(key):
    """(B, N) -> cells from the least key to the most, and the place of each in that order; (B, N) both."""
    order = jnp.argsort(key, axis=1)
    return order, jnp.argsort(order, axis=1)


def random_mask(noise, grid, visible):
    """Hides the same number of cells in every sample: all but those with the least noise.

    Args:
      noise: (B, rows*columns) uniform numbers, one per cell in row-major order.
      grid: (rows, columns).
      visible: how many cells of a sample stay visible.

    Returns:
      (B, rows, columns) bool.
    """
    _, place = shuffle_ids(noise)
    return (place >= visible).reshape(noise.shape[0], *grid)


def mixing_mask(noise, grid, mask_ratio):
    """Takes the same number of cells of every group from a partner: those with the least noise.

    Args:
      noise: (groups, rows*columns) uniform numbers, one per cell in row-major order.
      grid: (rows, columns).
      mask_ratio: share of the cells to take, rounded down in double precision as published.

    Returns:
      (groups, rows, columns) bool, and the indices of the cells that are left and that are taken, (groups,
      n) each in no particular order.
    """
    count = int(noise.shape[1] * mask_ratio)
    order, place = shuffle_ids(noise)
    return (place < count).reshape(len(noise), *grid), (order[:, count:], order[:, :count])
