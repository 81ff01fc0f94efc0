"""The transformer decoder of FastMIM, MixMIM and MAE: the method puts mask tokens and positions in."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from fastmim_jax.models.attention import TransformerBlock
from fastmim_jax.models.layers import Dense, EncoderOutput, layer_norm
from fastmim_jax.models.stack import Stack

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
    layers: str = "unrolled"

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
        self.blocks = Stack(TransformerBlock, self.depth, options, self.remat, self.layers)
        self.norm = layer_norm(self.epsilon, self.dtype, name="norm")
        self.pred = Dense(self.outputs, self.dtype)

    def __call__(self, encoded: EncoderOutput):
        """Encoded tokens (B, h, w, D) and prefix (B, K, D) -> (B, h, w, outputs) float32."""
        return self.predict(*self.embed_tokens(encoded))

    def embed_tokens(self, encoded: EncoderOutput):
        """Tokens (..., D) and prefix (B, K, D) -> Encoded, both as wide as the decoder."""
        return EncoderOutput(*map(self.embed, encoded)) if self.depth else encoded

    def predict(self, tokens, prefix):
        """Tokens (B, h, w, width) and prefix (B, K, width) -> (B, h, w, outputs) float32."""
        x = self.transform(tokens.reshape(len(tokens), -1, tokens.shape[-1]), prefix)
        return self.head(x).reshape(*tokens.shape[:3], -1).astype(jnp.float32)

    def transform(self, tokens, prefix):
        """Tokens (B, N, width) and prefix (B, K, width) -> the tokens after all blocks, (B, N, width)."""
        x = jnp.concatenate([prefix, tokens], axis=1) if prefix.shape[1] else tokens
        return self.blocks(x)[:, prefix.shape[1] :]

    def head(self, x):
        """(..., width), as `transform` gives it -> (..., outputs)."""
        return self.pred(self.norm(x))
