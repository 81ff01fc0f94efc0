"""The light transformer decoder of FastMIM: no positions and no mask tokens of its own."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from fastmim_jax.models.attention import TransformerBlock
from fastmim_jax.models.layers import Dense, Encoded, Stack, layer_norm

HEAD_WIDTH = 32


class Decoder(nn.Module):
    """Linear map to `width`, `depth` transformer blocks, norm, and one linear head.

    With depth 0 there is no map to `width` either (as published), only the norm and the head.

    Attributes:
      outputs: values predicted per token.
      width: a multiple of 32, the width of its attention heads.
    """

    outputs: int
    width: int = 256
    depth: int = 1
    mlp_ratio: float = 4.0
    epsilon: float = 1e-6
    kernel: str = "xla"
    dtype: Any = jnp.float32
    remat: str = "none"

    @nn.compact
    def __call__(self, encoded: Encoded):
        """Encoded tokens (B, h, w, D) and prefix (B, K, D) -> (B, h, w, outputs) float32."""
        tokens, prefix = encoded
        batch, rows, columns, width = tokens.shape
        x = jnp.concatenate([prefix, tokens.reshape(batch, -1, width)], axis=1)
        if self.depth:
            x = Dense(self.width, self.dtype, name="embed")(x)
        options = dict(
            heads=max(self.width // HEAD_WIDTH, 1),
            mlp_ratio=self.mlp_ratio,
            epsilon=self.epsilon,
            kernel=self.kernel,
            dtype=self.dtype,
        )
        x = Stack(TransformerBlock, self.depth, options, self.remat, name="blocks")(x)
        x = layer_norm(self.epsilon, self.dtype, name="norm")(x[:, prefix.shape[1] :])
        x = Dense(self.outputs, self.dtype, name="pred")(x)
        return x.reshape(batch, rows, columns, -1).astype(jnp.float32)
