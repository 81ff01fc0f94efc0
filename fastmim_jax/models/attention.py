"""Self-attention of a ViT and its transformer block."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float, Int, Shaped

from fastmim_jax.models.attention_kernels import choose_kernel, cudnn_attention, xla_attention
from fastmim_jax.models.device import batch_parts
from fastmim_jax.models.layers import MLP, layer_norm
from fastmim_jax.models.linear import Dense, SplitDense, broadcast_parameter
from fastmim_jax.models.position_bias import (
    add_cls,
    device_copies,
    relative_position_bias,
    split_by_device,
)
from fastmim_jax.models.stack import BranchScale, Stack, residual_branch
from fastmim_jax.models.triton_attention import window_attention
from fastmim_jax.models.typing import Array


class RelativePositionBias(nn.Module):
    """A learned bias for every head and relative position of two patches, and for cls with patches.

    The table of cls has three entries: cls to patch, patch to cls, cls to cls. Both tables are initialised
    as zero. Source: SimMIM's `vision_transformer.py`.
    """

    heads: int

    @nn.compact
    def __call__(self, cells: Shaped[Array, "h w"], batch: int) -> Float[Array, "R heads 1+h*w 1+h*w"]:
        """Return the bias for each of R equal parts of a batch, see `device_copies`; cls comes first.

        cells: an array with the shape of the grid.
        """
        sides = [2 * side - 1 for side in cells.shape]
        zeros = nn.initializers.zeros
        table = self.param("relative_position_bias_table", zeros, (*sides, self.heads))
        cls_table = self.param("cls_relative_position_bias", zeros, (3, self.heads))
        bias = relative_position_bias(device_copies(table, batch), (cells.shape[0], cells.shape[1]))
        return add_cls(bias, device_copies(cls_table, batch))


class LayerScale(nn.Module):
    """Multiplication by a learned vector, initialised as `initial` everywhere."""

    initial: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        gamma = self.param("gamma", nn.initializers.constant(self.initial), (x.shape[-1],))
        return broadcast_parameter(gamma, x) * x


class Attention(nn.Module):
    """Multi-head self-attention over all tokens, softmax in float32.

    Attributes:
      heads: number of heads, which divides D.
      kernel: see `choose_kernel`.
    """

    heads: int
    kernel: str = "auto"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B N D"],
        bias: Float[Array, "R heads N N"] | None = None,
        cells: Shaped[Array, "h w"] | None = None,
        lengths: Int[Array, " B"] | None = None,
    ) -> Float[Array, "B N D"]:
        """Attend from all tokens to all tokens.

        Args:
          bias: added to the scores, for each of R equal parts of the batch.
          cells: an array with the shape of the grid, if this layer has a RelativePositionBias of its own.
          lengths: see `cudnn_attention`.
        """
        batch, count, width = x.shape
        if cells is not None:
            bias = RelativePositionBias(self.heads, name="relative_position")(cells, batch)
        qkv = SplitDense(3, width, self.dtype, name="qkv")(x)
        query, key, value = (y.reshape(batch, count, self.heads, -1) for y in qkv)
        kernel = choose_kernel(self.kernel, self.dtype, width // self.heads, bias is not None, count)
        if kernel == "cudnn":
            x = cudnn_attention(query, key, value, lengths)
        elif bias is None:
            x = xla_attention(query, key, value)
        elif kernel == "pallas" and len(bias) == batch_parts():
            x = window_attention(query, key, value, bias)
        else:
            query, key, value = (split_by_device(y, len(bias)) for y in (query, key, value))
            x = xla_attention(query, key, value, bias[:, None])
        return Dense(width, self.dtype, name="proj")(x.reshape(batch, count, width))


class TransformerBlock(nn.Module):
    """Pre-norm ViT block: x + attention(norm(x)), then x + MLP(norm(x)).

    layer_scale: initial value of a LayerScale of either branch; None: no LayerScale.
    """

    heads: int
    mlp_ratio: float = 4.0
    epsilon: float = 1e-6
    kernel: str = "auto"
    dtype: DTypeLike = jnp.float32
    layer_scale: float | None = None

    num_branches = 2  # residual branches under drop path

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B N D"],
        bias: Float[Array, "R heads N N"] | None = None,
        cells: Shaped[Array, "h w"] | None = None,
        lengths: Int[Array, " B"] | None = None,
        *,
        scales: BranchScale = (None, None),
    ) -> Float[Array, "B N D"]:
        """Apply the block; for bias, cells and lengths see `Attention`, for scales see `residual`."""
        x, y = layer_norm(self.epsilon, self.dtype, name="norm1").after_residual(x)
        y = Attention(self.heads, self.kernel, self.dtype, name="attn")(y, bias, cells, lengths)
        y = residual_branch(self._scaled(y, "scale1"), scales[0])
        x, y = layer_norm(self.epsilon, self.dtype, name="norm2").after_residual(x, y)
        y = MLP(self.mlp_ratio, self.dtype, name="mlp")(y)
        return x + residual_branch(self._scaled(y, "scale2"), scales[1])

    def _scaled(self, x, name):
        return x if self.layer_scale is None else LayerScale(self.layer_scale, self.dtype, name=name)(x)


class TransformerStack(Stack):
    """Transformer blocks over sequences of any length, see `Stack`.

    JAX refuses odd lengths in training with cuDNN's kernel. They are padded by one token, once for all
    blocks.
    """

    def __call__(self, x: Float[Array, "B N D"], *shared: Any) -> Float[Array, "B N D"]:
        """Apply all blocks; shared: bias and cells of `Attention`."""
        padded, shared = self._pad(x, shared)
        return super().__call__(padded, *shared)[:, : x.shape[1]]

    def outputs(self, x: Float[Array, "B N D"], *shared: Any) -> list[Float[Array, "B N D"]]:
        """Apply all blocks and return the output of each."""
        padded, shared = self._pad(x, shared)
        return [output[:, : x.shape[1]] for output in super().outputs(padded, *shared)]

    def _pad(self, x, shared):
        batch, count, width = x.shape
        options = self.options
        has_bias = any(array is not None for array in shared)
        kernel = choose_kernel(options["kernel"], options["dtype"], width // options["heads"], has_bias)
        if kernel != "cudnn" or count % 2 == 0:
            return x, shared
        lengths = jnp.full(batch, count, jnp.int32)
        return jnp.pad(x, ((0, 0), (0, 1), (0, 0))), (None, None, lengths)
