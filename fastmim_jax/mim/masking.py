"""Noise -> masks. 1 (True) means hidden everywhere."""

import jax.numpy as jnp


def visible_count(cells, mask_ratio):
    """How many of `cells` stay visible, rounded down in double precision as published."""
    return int(cells * (1 - mask_ratio))


def hide_cells(noise, grid, mask_ratio):
    """Hides the same number of cells in every sample: those with the largest noise.

    Args:
      noise: (B, rows*columns) uniform numbers, one per cell in row-major order.
      grid: (rows, columns).
      mask_ratio: share of the cells to hide.

    Returns:
      (B, rows, columns) bool.
    """
    order = jnp.argsort(noise, axis=1)  # cells from the least noise to the most
    rank = jnp.argsort(order, axis=1)  # the place of each cell in that order
    hidden = rank >= visible_count(noise.shape[1], mask_ratio)
    return hidden.reshape(noise.shape[0], *grid)


def take_cells(noise, grid, mask_ratio):
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
    order = jnp.argsort(noise, axis=1)  # cells from the least noise to the most
    taken = jnp.argsort(order, axis=1) < count
    return taken.reshape(len(noise), *grid), (order[:, count:], order[:, :count])
