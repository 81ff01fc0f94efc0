"""Masks from noise; 1 (True) means masked everywhere."""

import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Num

from fastmim_jax.models.typing import Array


def num_visible(num_tokens: int, mask_ratio: float) -> int:
    """Return how many of `num_tokens` stay visible, rounded down in double precision as published."""
    return int(num_tokens * (1 - mask_ratio))


def shuffle_ids(noise: Num[Array, "B N"]) -> tuple[Int[Array, "B N"], Int[Array, "B N"]]:
    """Return MAE's ids_shuffle and ids_restore: the argsort of the noise along N, and its inverse."""
    ids_shuffle = jnp.argsort(noise, axis=1)
    return ids_shuffle, jnp.argsort(ids_shuffle, axis=1)


def random_mask(
    noise: Float[Array, "B N"], grid: tuple[int, int], num_visible: int
) -> Bool[Array, "B h w"]:
    """Mask the same number of cells in every sample: all but the cells with the least noise.

    Args:
      noise: one uniform number per cell, in row-major order.
      grid: (rows, columns) of cells.
      num_visible: cells of a sample that stay visible.

    >>> import jax.numpy as jnp
    >>> random_mask(jnp.array([[0.1, 0.9, 0.4, 0.6]]), grid=(2, 2), num_visible=1).astype(int)
    Array([[[0, 1],
            [1, 1]]], dtype=int32)
    """
    _, ids_restore = shuffle_ids(noise)
    return (ids_restore >= num_visible).reshape(noise.shape[0], *grid)


def disjoint_noise(noise: Float[Array, "B N"], views: int, num_visible: int) -> Float[Array, "V N"]:
    """Give every view of an image masking noise of its own, so that no cell is visible in two views.

    View v has the noise of its image with the values moved by v * num_visible ranks: the cells with the
    least noise, which `random_mask` leaves visible, are the next num_visible ones. Every view alone is
    masked at random as ever, and view 0 has the noise itself. Source: DMJD (arXiv 2301.00230).

    Args:
      noise: of every image, one uniform number per cell.
      views: of every image; views * num_visible is at most N.
      num_visible: cells of a view that stay visible.

    Returns:
      V = B * views rows; the views of an image follow each other.

    >>> import jax.numpy as jnp
    >>> disjoint_noise(jnp.array([[0.1, 0.9, 0.4, 0.6]]), views=2, num_visible=1)
    Array([[0.1, 0.9, 0.4, 0.6],
           [0.9, 0.6, 0.1, 0.4]], dtype=float32)
    """
    if views == 1:
        return noise
    _, ranks = shuffle_ids(noise)
    offsets = jnp.arange(views)[:, None] * num_visible
    ranks = (ranks[:, None] - offsets) % noise.shape[1]
    values = jnp.broadcast_to(jnp.sort(noise, axis=1)[:, None], ranks.shape)
    return jnp.take_along_axis(values, ranks, axis=2).reshape(-1, noise.shape[1])


def reorder_noise(noise: Float[Array, "B N"], scores: Num[Array, "B N"]) -> Float[Array, "B N"]:
    """Return the numbers of every row of the noise in the order of its scores; ties go by the index.

    >>> import jax.numpy as jnp
    >>> reorder_noise(jnp.array([[0.1, 0.9, 0.4]]), jnp.array([[7, 5, 6]]))
    Array([[0.9, 0.1, 0.4]], dtype=float32)
    """
    _, ranks = shuffle_ids(scores)
    return jnp.take_along_axis(jnp.sort(noise, axis=1), ranks, axis=1)


def mixing_mask(
    noise: Float[Array, "G N"], grid: tuple[int, int], num_masked: int
) -> tuple[Bool[Array, "G h w"], tuple[Int[Array, "G K"], Int[Array, "G M"]]]:
    """Mask the same number of cells in every group: the cells with the least noise, which a partner fills.

    Args:
      noise: one uniform number per cell, in row-major order.
      grid: (rows, columns) of cells.
      num_masked: cells of a group that are masked.

    Returns:
      The mask, and (ids_keep, ids_mask): the row-major indices of visible and masked cells, unsorted.
    """
    ids_shuffle, ids_restore = shuffle_ids(noise)
    mask = (ids_restore < num_masked).reshape(len(noise), *grid)
    return mask, (ids_shuffle[:, num_masked:], ids_shuffle[:, :num_masked])
