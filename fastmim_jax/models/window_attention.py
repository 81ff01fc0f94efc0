"""Attention inside windows, or inside groups of the cells of a window, with a bias by relative position."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Int, Shaped

from fastmim_jax.models.attention_kernels import LARGEST_NEGATIVE, choose_kernel, xla_attention
from fastmim_jax.models.device import batch_parts
from fastmim_jax.models.linear import Dense, SplitDense
from fastmim_jax.models.position_bias import (
    device_copies,
    relative_position_bias,
    repeat_rows,
    split_by_device,
)
from fastmim_jax.models.triton_attention import window_attention
from fastmim_jax.models.typing import Array

MIN_GROUP_ATTENTION_CELLS = 100  # of a window, from which `group_attention` is faster than a mask


class WindowAttention(nn.Module):
    """Self-attention inside windows, with a learned bias per head and relative position."""

    heads: int
    window: tuple[int, int]
    kernel: str = "auto"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B n N D"],
        mask: Bool[Array, "n N N"] | None = None,
        labels: Shaped[Array, "B n N"] | None = None,
        indices: tuple[Int[Array, "_G _n"], ...] = (),
    ) -> Float[Array, "B n N D"]:
        """Attend inside each of n windows of N cells.

        Args:
          mask: of the windows of each image; True: may attend.
          labels: of AttentionGroups: cells attend to the cells with their own label.
          indices: of the same groups, if there is a single window.
        """
        batch, count, cells, width = x.shape
        sides = [2 * side - 1 for side in self.window]
        table = self.param(
            "relative_position_bias_table", nn.initializers.normal(0.02), (*sides, self.heads)
        )
        bias = relative_position_bias(device_copies(table, batch), self.window)
        qkv = SplitDense(3, width, self.dtype, name="qkv")(x)
        query, key, value = (y.reshape(*x.shape[:3], self.heads, -1) for y in qkv)
        kernel = choose_kernel(self.kernel, self.dtype, width // self.heads, True, cells)
        if kernel == "pallas" and len(bias) == batch_parts():
            query, key, value = (y.reshape(-1, *y.shape[2:]) for y in (query, key, value))
            labels = None if labels is None else labels.reshape(-1, cells).astype(jnp.int32)
            x = window_attention(query, key, value, bias, labels, mask)
        elif indices and cells >= MIN_GROUP_ATTENTION_CELLS:
            x = group_attention(query[:, 0], key[:, 0], value[:, 0], bias, indices)
        else:
            x = masked_attention(query, key, value, bias, _joint_mask(mask, labels))
        return Dense(width, self.dtype, name="proj")(x.reshape(batch, count, cells, width))


def _joint_mask(mask, labels):
    """Return the mask of all windows, (1 or B, n, N, N) bool, or None if it would be all True."""
    mask = None if mask is None else mask[None]
    if labels is None:
        return mask
    same_group = labels[..., :, None] == labels[..., None, :]
    return same_group if mask is None else same_group & mask


def masked_attention(
    query: Float[Array, "B n N heads d"],
    key: Float[Array, "B n N heads d"],
    value: Float[Array, "B n N heads d"],
    bias: Float[Array, "R heads N N"],
    mask: Bool[Array, "#B n N N"] | None = None,
) -> Float[Array, "B n N heads d"]:
    """Return attention inside n windows.

    Args:
      bias: of the scores, one for each of R equal parts of the batch, see `device_copies`.
      mask: True: may attend.
    """
    copies, bias = len(bias), bias[:, None, None]  # (R, 1, 1, heads, N, N)
    if mask is not None and len(mask) == 1:  # the same for all images: part of the bias
        bias, mask = jnp.where(mask[0][:, None], bias, LARGEST_NEGATIVE), None
    elif mask is not None:
        mask = split_by_device(mask[:, :, None], copies)
    shape = query.shape
    query, key, value = (split_by_device(x, copies) for x in (query, key, value))
    return xla_attention(query, key, value, bias, mask).reshape(shape)


def group_attention(
    query: Float[Array, "B N heads d"],
    key: Float[Array, "B N heads d"],
    value: Float[Array, "B N heads d"],
    bias: Float[Array, "R heads N N"],
    indices: tuple[Int[Array, "_G _n"], ...],
) -> Float[Array, "B N heads d"]:
    """Return attention inside each group of cells: equal to a mask, without the masked scores.

    Args:
      bias: see `masked_attention`.
      indices: of AttentionGroups; every cell is in one group.
    """
    filled = [index for index in indices if index.shape[1]]
    rows = math.lcm(len(bias), len(filled[0]))
    if len(query) % rows:
        bias, rows = bias[:1], len(filled[0])
    bias, *filled = (repeat_rows(x, rows) for x in (bias, *filled))
    shape = query.shape
    query, key, value = (split_by_device(x, rows) for x in (query, key, value))

    def attention(query, key, value, bias, index):
        group_bias = bias[:, index[:, None], index[None, :]]
        return xla_attention(query[:, index], key[:, index], value[:, index], group_bias)

    outputs = [jax.vmap(attention)(query, key, value, bias, index) for index in filled]
    ids_restore = jnp.argsort(jnp.concatenate(filled, axis=1), axis=1)
    x = jax.vmap(lambda x, ids: x[:, ids])(jnp.concatenate(outputs, axis=2), ids_restore)
    return x.reshape(shape)
