"""The light transformer decoder of FastMIM and MixMIM: no mask tokens and no positions of its own."""

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
      heads: of its attention; None for heads 32 wide.
    """

    outputs: int
    width: int = 256
    depth: int = 1
    heads: int | None = None
    mlp_ratio: float = 4.0
    epsilon: float = 1e-6
    kernel: str = "xla"
    dtype: Any = jnp.float32
    remat: str = "none"

    def setup(self):
        if self.depth:
            self.embed = Dense(self.width, self.dtype)
        options = dict(
            heads=self.heads or max(self.width // HEAD_WIDTH, 1),
            mlp_ratio=self.mlp_ratio,
            epsilon=self.epsilon,
            kernel=self.kernel,
            dtype=self.dtype,
        )
        self.blocks = Stack(TransformerBlock, self.depth, options, self.remat)
        self.norm = layer_norm(self.epsilon, self.dtype, name="norm")
        self.pred = Dense(self.outputs, self.dtype)

    def __call__(self, encoded: Encoded):
        """Encoded tokens (B, h, w, D) and prefix (B, K, D) -> (B, h, w, outputs) float32."""
        tokens, prefix = encoded
        return self.predict(self.embed_tokens(tokens), self.embed_tokens(prefix))

    def embed_tokens(self, x):
        """(..., D) -> (..., width)."""
        return self.embed(x) if self.depth else x

    def predict(self, tokens, prefix=None):
        """Tokens (B, h, w, width) and prefix (B, K, width) -> (B, h, w, outputs) float32."""
        batch, rows, columns, width = tokens.shape
        x = tokens.reshape(batch, -1, width)
        count = 0 if prefix is None else prefix.shape[1]
        if count:
            x = jnp.concatenate([prefix, x], axis=1)
        x = self.pred(self.norm(self.blocks(x)[:, count:]))
        return x.reshape(batch, rows, columns, -1).astype(jnp.float32)
