"""Self-attention, and the transformer block around it."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from fastmim_jax.models.layers import MLP, Dense, layer_norm

KERNELS = ("xla", "cudnn")


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
    def __call__(self, x):
        batch, count, width = x.shape
        qkv = Dense(3 * width, self.dtype, name="qkv")(x)
        query, key, value = jnp.moveaxis(qkv.reshape(batch, count, 3, self.heads, -1), 2, 0)
        x = jax.nn.dot_product_attention(query, key, value, implementation=self.kernel)
        return Dense(width, self.dtype, name="proj")(x.reshape(batch, count, width))


class TransformerBlock(nn.Module):
    """Pre-norm ViT block: x + attention(norm(x)), then x + mlp(norm(x)); (B, N, D) -> (B, N, D)."""

    heads: int
    mlp_ratio: float = 4.0
    epsilon: float = 1e-6
    kernel: str = "xla"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        y = layer_norm(self.epsilon, self.dtype, name="norm1")(x)
        x = x + Attention(self.heads, self.kernel, self.dtype, name="attn")(y)
        y = layer_norm(self.epsilon, self.dtype, name="norm2")(x)
        return x + MLP(self.mlp_ratio, self.dtype, name="mlp")(y)
