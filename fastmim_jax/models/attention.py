"""Self-attention, and the transformer block around it."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from fastmim_jax.models.layers import MLP, Dense, layer_norm
from fastmim_jax.models.stack import residual

KERNELS = ("xla", "cudnn")


def relative_index(grid):
    """Where in a (2h-1, 2w-1) table the bias of a pair of cells stands: two (N, N) arrays."""
    rows, columns = (axis.ravel() for axis in np.indices(grid))
    return (
        rows[:, None] - rows[None, :] + grid[0] - 1,
        columns[:, None] - columns[None, :] + grid[1] - 1,
    )


class RelativePositions(nn.Module):
    """A learned bias for every head and pair of relative positions on a grid, and for cls with the patches.

    The second table has the entries of cls that looks at patches, of patches that look at cls, and of cls
    that looks at itself. Both begin at zero. Source: SimMIM's `vision_transformer.py`.
    """

    heads: int

    @nn.compact
    def __call__(self, cells):
        """cells: (h, w), any array; its shape counts. -> (heads, 1 + h*w, 1 + h*w), cls in front."""
        sides = [2 * side - 1 for side in cells.shape]
        zeros = nn.initializers.zeros
        table = self.param("relative_position_bias_table", zeros, (*sides, self.heads))
        of_cls = self.param("cls_relative_position_bias", zeros, (3, self.heads))
        entries = jnp.concatenate([table.reshape(-1, self.heads), of_cls])
        index = np.ravel_multi_index(relative_index(cells.shape), sides)
        index = np.pad(index, ((1, 0), (1, 0)))
        index[0, :], index[:, 0], index[0, 0] = (len(entries) - place for place in (3, 2, 1))
        return jnp.moveaxis(entries[index], -1, 0)


class LayerScale(nn.Module):
    """(B, N, D) times a learned vector that begins as `initial` everywhere."""

    initial: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        gamma = self.param("gamma", nn.initializers.constant(self.initial), (x.shape[-1],))
        return gamma.astype(self.dtype) * x


class Attention(nn.Module):
    """Full self-attention over (B, N, D), softmax in float32.

    Attributes:
      heads: number of heads; D must be a multiple of it.
      kernel: "xla" everywhere, or "cudnn" for its fused kernel (NVIDIA GPUs, bfloat16).
    """

    heads: int
    kernel: str = "xla"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, bias=None, cells=None):
        """(B, N, D) -> the same shape.

        bias: (heads, N, N), added to the scores, or None.
        cells: (h, w), any array, where this layer has RelativePositions of its own on such a grid, or None.
        """
        batch, count, width = x.shape
        if cells is not None:
            bias = RelativePositions(self.heads, name="relative_position")(cells)
        bias = None if bias is None else bias[None]
        qkv = Dense(3 * width, self.dtype, name="qkv")(x)
        query, key, value = jnp.moveaxis(qkv.reshape(batch, count, 3, self.heads, -1), 2, 0)
        x = jax.nn.dot_product_attention(query, key, value, bias, implementation=self.kernel)
        return Dense(width, self.dtype, name="proj")(x.reshape(batch, count, width))


class TransformerBlock(nn.Module):
    """Pre-norm ViT block: x + attention(norm(x)), then x + mlp(norm(x)); (B, N, D) -> (B, N, D).

    layer_scale: what a LayerScale of either result begins at; None for no such.
    """

    heads: int
    mlp_ratio: float = 4.0
    epsilon: float = 1e-6
    kernel: str = "xla"
    dtype: Any = jnp.float32
    layer_scale: float | None = None

    branches = 2  # that drop path may drop

    @nn.compact
    def __call__(self, x, *relative, keep=(None, None)):
        """relative: bias and cells as Attention takes them, or less. keep: factors, see `residual`."""
        y = layer_norm(self.epsilon, self.dtype, name="norm1")(x)
        y = Attention(self.heads, self.kernel, self.dtype, name="attn")(y, *relative)
        x = residual(x, self._scaled(y, "scale1"), keep[0])
        y = layer_norm(self.epsilon, self.dtype, name="norm2")(x)
        y = MLP(self.mlp_ratio, self.dtype, name="mlp")(y)
        return residual(x, self._scaled(y, "scale2"), keep[1])

    def _scaled(self, x, name):
        return x if self.layer_scale is None else LayerScale(self.layer_scale, self.dtype, name=name)(x)
