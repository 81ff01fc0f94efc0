"""Biases of attention scores by relative position, with gradients that stay small across devices.

The gradient of a bias is a sum over the batch. The partitioner would sum (heads, N, N) over all devices
before it is scattered into the table, which has N / 4 times fewer entries. Here every device has a copy of
the table, on an axis that is sharded like the batch: each device sums the gradients of its own images into
its copy, and only the copies' gradients cross devices.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Shaped

from fastmim_jax.models.device import batch_parts
from fastmim_jax.models.layers import constrain_batch_sharding
from fastmim_jax.models.typing import Array


def device_copies(table: Float[Array, " *shape"], batch: int) -> Float[Array, " R *shape"]:
    """Return a copy of a table for each of the R devices that hold a part of the batch.

    R is 1 without a mesh, or if the devices do not divide the batch.
    """
    copies = batch_parts()
    if copies == 1 or batch % copies:
        return table[None]
    return constrain_batch_sharding(jnp.broadcast_to(table, (copies, *table.shape)))


def split_by_device(x: Shaped[Array, "B ..."], copies: int) -> Shaped[Array, "R n ..."]:
    """Split the batch axis of x, so that its first axis is that of `device_copies`."""
    return x.reshape(copies, -1, *x.shape[1:])


def relative_position_bias(
    table: Float[Array, "*R rows columns heads"], grid: tuple[int, int]
) -> Float[Array, "*R heads N N"]:
    """Return the bias of each pair of the N cells of a grid (h, w), query first.

    A lookup, whose gradient is two products with one-hot matrices instead of a scatter.

    Args:
      table: (2h-1, 2w-1, heads), by distance in rows and columns, query minus key.
    """
    rows, columns = (np.subtract.outer(axis.ravel(), axis.ravel()) for axis in np.indices(grid))

    @jax.custom_vjp
    def lookup(table):
        return jnp.moveaxis(table[..., rows + grid[0] - 1, columns + grid[1] - 1, :], -1, -3)

    def backward(_, gradient):
        return (_sum_into_table(gradient, grid),)

    lookup.defvjp(lambda table: (lookup(table), None), backward)
    return lookup(table)


def _sum_into_table(gradient, grid):
    exact = jax.lax.Precision.HIGHEST  # else TPUs and some GPUs round the gradient
    rows, columns = (jnp.asarray(_one_hot_distances(side), gradient.dtype) for side in grid)
    gradient = gradient.reshape(*gradient.shape[:-2], *grid, *grid)
    gradient = jnp.einsum("...hrcsd,cdy->...hrsy", gradient, columns, precision=exact)
    return jnp.einsum("...hrsy,rsx->...xyh", gradient, rows, precision=exact)


def _one_hot_distances(side: int) -> np.ndarray:
    """Return (side, side, 2*side-1), 1 at the distance first - second + side - 1."""
    cells = np.arange(side)
    return np.eye(2 * side - 1)[np.subtract.outer(cells, cells) + side - 1]


def add_cls(
    bias: Float[Array, "*R heads N N"], cls_table: Float[Array, "*R 3 heads"]
) -> Float[Array, "*R heads 1+N 1+N"]:
    """Put a cls token before the patches; cls_table: cls to patch, patch to cls, cls to cls."""
    to_patch, from_patch, to_itself = jnp.moveaxis(cls_table, -2, 0)
    count = bias.shape[-1]
    row = jnp.broadcast_to(to_patch[..., None, None], (*to_patch.shape, 1, count))
    bias = jnp.concatenate([row, bias], axis=-2)
    column = jnp.broadcast_to(from_patch[..., None, None], (*from_patch.shape, count, 1))
    column = jnp.concatenate([to_itself[..., None, None], column], axis=-2)
    return jnp.concatenate([column, bias], axis=-1)


def repeat_rows(x: Shaped[Array, "R ..."], count: int) -> Shaped[Array, "{count} ..."]:
    """Repeat each row of x count / R times in a row."""
    spread = jnp.broadcast_to(x[:, None], (len(x), count // len(x), *x.shape[1:]))
    return spread.reshape(count, *x.shape[1:])
