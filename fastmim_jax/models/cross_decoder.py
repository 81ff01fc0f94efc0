"""The decoder of CrossMAE (arXiv 2401.14391): queries attend to the encoder's tokens, not to one another.

Source: `models_cross.py` and `transformer_utils.py` of the published code.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float

from fastmim_jax.models.attention_kernels import xla_attention
from fastmim_jax.models.decoder import HEAD_WIDTH
from fastmim_jax.models.layers import MLP, layer_norm
from fastmim_jax.models.linear import Dense, SplitDense, broadcast_parameter
from fastmim_jax.models.stack import BranchScale, Stack, residual
from fastmim_jax.models.typing import Array


class CrossAttention(nn.Module):
    """Multi-head attention from queries to other tokens, softmax in float32; `heads` divides D."""

    heads: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, queries: Float[Array, "B N D"], memory: Float[Array, "B M E"]
    ) -> Float[Array, "B N D"]:
        batch, count, width = queries.shape
        query = Dense(width, self.dtype, name="q")(queries)
        key, value = SplitDense(2, width, self.dtype, name="kv")(memory)
        parts = (x.reshape(batch, -1, self.heads, width // self.heads) for x in (query, key, value))
        x = xla_attention(*parts)
        return Dense(width, self.dtype, name="proj")(x.reshape(batch, count, width))


class CrossBlock(nn.Module):
    """Pre-norm block: x + attention(norm(x), memory), then x + MLP(norm(x)).

    The memory is the one map that it is given, or a learned weighted sum of several, normalised.
    """

    heads: int
    mlp_ratio: float = 4.0
    epsilon: float = 1e-6
    dtype: DTypeLike = jnp.float32

    num_branches = 2  # residual branches under drop path

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B N D"],
        maps: Sequence[Float[Array, "B M E"]],
        *,
        scales: BranchScale = (None, None),
    ) -> Float[Array, "B N D"]:
        """Apply the block; for scales see `residual`."""
        memory = maps[0] if len(maps) == 1 else self._mix(maps)
        y = layer_norm(self.epsilon, self.dtype, name="norm1")(x)
        x = residual(x, CrossAttention(self.heads, self.dtype, name="attn")(y, memory), scales[0])
        y = layer_norm(self.epsilon, self.dtype, name="norm2")(x)
        return residual(x, MLP(self.mlp_ratio, self.dtype, name="mlp")(y), scales[1])

    def _mix(self, maps: Sequence[Array]) -> Array:
        weight = self.param("map_weights", nn.initializers.normal(len(maps) ** -0.5), (len(maps),))
        mixed = sum((broadcast_parameter(w, x) * x for w, x in zip(weight, maps, strict=True)), 0.0)
        return layer_norm(self.epsilon, self.dtype, name="memory_norm")(jnp.asarray(mixed))


class CrossDecoder(nn.Module):
    """Blocks of cross-attention, a norm and one linear head; no embedding, `kv` layers do that.

    Attributes: those of `Decoder`; its attention always runs on XLA's kernel.
    """

    num_outputs: int
    width: int = 512
    depth: int = 12
    heads: int | None = None
    mlp_ratio: float = 4.0
    epsilon: float = 1e-6
    kernel: str = "xla"
    dtype: DTypeLike = jnp.float32
    remat: str = "none"
    layers: str = "unrolled"
    residual_dtype: DTypeLike | None = None

    attention_kernel = "xla"

    @nn.compact
    def __call__(
        self, queries: Float[Array, "B N D"], maps: Sequence[Float[Array, "B M E"]]
    ) -> Float[Array, "B N {self.num_outputs}"]:
        """Return float32 predictions for queries of the decoder's width.

        Args:
          maps: encoded tokens: one normalised map, or several, of which each block attends to a sum.
        """
        options: dict[str, Any] = dict(
            heads=self.heads or max(self.width // HEAD_WIDTH, 1),
            mlp_ratio=self.mlp_ratio,
            epsilon=self.epsilon,
            dtype=self.dtype,
        )
        stack: dict[str, Any] = dict(
            remat=self.remat, layers=self.layers, residual_dtype=self.residual_dtype
        )
        x = Stack(CrossBlock, self.depth, options, **stack, name="blocks")(queries, tuple(maps))
        x = layer_norm(self.epsilon, self.dtype, name="norm")(x)
        return Dense(self.num_outputs, self.dtype, name="pred")(x).astype(jnp.float32)
