"""Self-attention of a ViT and its transformer block."""

from typing import Literal, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Float, Int, Shaped

from fastmim_jax.models.layers import MLP, Dense, layer_norm
from fastmim_jax.models.stack import BranchScale, residual
from fastmim_jax.models.typing import Array

KERNELS = ("xla", "cudnn")


def relative_position_index(
    grid: tuple[int, int],
) -> tuple[Int[np.ndarray, "N N"], Int[np.ndarray, "N N"]]:
    """Return the row and the column in a (2h-1, 2w-1) table for each pair of cells of a grid (h, w)."""
    rows, columns = (axis.ravel() for axis in np.indices(grid))
    return (
        rows[:, None] - rows[None, :] + grid[0] - 1,
        columns[:, None] - columns[None, :] + grid[1] - 1,
    )


class RelativePositionBias(nn.Module):
    """A learned bias for every head and relative position of two patches, and for cls with patches.

    The table of cls has three entries: cls to patch, patch to cls, cls to cls. Both tables are initialised
    as zero. Source: SimMIM's `vision_transformer.py`.
    """

    heads: int

    @nn.compact
    def __call__(self, cells: Shaped[Array, "h w"]) -> Float[Array, "heads 1+h*w 1+h*w"]:
        """Return the bias of a grid with the shape of `cells`; cls comes first."""
        sides = [2 * side - 1 for side in cells.shape]
        zeros = nn.initializers.zeros
        table = self.param("relative_position_bias_table", zeros, (*sides, self.heads))
        cls_table = self.param("cls_relative_position_bias", zeros, (3, self.heads))
        entries = jnp.concatenate([table.reshape(-1, self.heads), cls_table])
        row, column = relative_position_index((cells.shape[0], cells.shape[1]))
        index = np.pad(row * sides[1] + column, ((1, 0), (1, 0)))
        index[0, :], index[:, 0], index[0, 0] = (len(entries) - back for back in (3, 2, 1))
        return jnp.moveaxis(entries[index], -1, 0)


class LayerScale(nn.Module):
    """Multiplication by a learned vector, initialised as `initial` everywhere."""

    initial: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        gamma = self.param("gamma", nn.initializers.constant(self.initial), (x.shape[-1],))
        return gamma.astype(self.dtype) * x


class Attention(nn.Module):
    """Multi-head self-attention over all tokens, softmax in float32.

    Attributes:
      heads: number of heads, which divides D.
      kernel: "xla" everywhere, or "cudnn" for its fused kernel (NVIDIA GPUs, bfloat16).
    """

    heads: int
    kernel: str = "xla"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B N D"],
        bias: Float[Array, "heads N N"] | None = None,
        cells: Shaped[Array, "h w"] | None = None,
    ) -> Float[Array, "B N D"]:
        """Attend from all tokens to all tokens.

        Args:
          bias: added to the scores.
          cells: an array with the shape of the grid, if this layer has a RelativePositionBias of its own.
        """
        batch, count, width = x.shape
        if cells is not None:
            bias = RelativePositionBias(self.heads, name="relative_position")(cells)
        bias = None if bias is None else jnp.asarray(bias)[None]
        qkv = Dense(3 * width, self.dtype, name="qkv")(x)
        query, key, value = jnp.moveaxis(qkv.reshape(batch, count, 3, self.heads, -1), 2, 0)
        kernel = cast(Literal["xla", "cudnn"], self.kernel)
        x = jax.nn.dot_product_attention(query, key, value, bias, implementation=kernel)
        return Dense(width, self.dtype, name="proj")(x.reshape(batch, count, width))


class TransformerBlock(nn.Module):
    """Pre-norm ViT block: x + attention(norm(x)), then x + MLP(norm(x)).

    layer_scale: initial value of a LayerScale of either branch; None: no LayerScale.
    """

    heads: int
    mlp_ratio: float = 4.0
    epsilon: float = 1e-6
    kernel: str = "xla"
    dtype: DTypeLike = jnp.float32
    layer_scale: float | None = None

    num_branches = 2  # residual branches under drop path

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B N D"],
        bias: Float[Array, "heads N N"] | None = None,
        cells: Shaped[Array, "h w"] | None = None,
        *,
        scales: BranchScale = (None, None),
    ) -> Float[Array, "B N D"]:
        """Apply the block; for bias and cells see `Attention`, for scales see `residual`."""
        y = layer_norm(self.epsilon, self.dtype, name="norm1")(x)
        y = Attention(self.heads, self.kernel, self.dtype, name="attn")(y, bias, cells)
        x = residual(x, self._scaled(y, "scale1"), scales[0])
        y = layer_norm(self.epsilon, self.dtype, name="norm2")(x)
        y = MLP(self.mlp_ratio, self.dtype, name="mlp")(y)
        return residual(x, self._scaled(y, "scale2"), scales[1])

    def _scaled(self, x, name):
        return x if self.layer_scale is None else LayerScale(self.layer_scale, self.dtype, name=name)(x)
