"""The transformer decoder of FastMIM, MixMIM and MAE; the method inserts mask tokens and positions."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float

from fastmim_jax.models.attention import TransformerBlock
from fastmim_jax.models.base import EncoderOutput
from fastmim_jax.models.layers import Dense, layer_norm
from fastmim_jax.models.stack import Stack
from fastmim_jax.models.typing import Array

HEAD_WIDTH = 32


class Decoder(nn.Module):
    """Linear embedding to `width`, `depth` transformer blocks, a norm and one linear head.

    With depth 0 there is no embedding either (as published), only the norm and the head.

    Attributes:
      num_outputs: values predicted per token.
      heads: of its attention; None: heads of 32 channels.
    """

    num_outputs: int
    width: int = 256
    depth: int = 1
    heads: int | None = None
    mlp_ratio: float = 4.0
    epsilon: float = 1e-6
    kernel: str = "xla"
    dtype: DTypeLike = jnp.float32
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
        self.pred = Dense(self.num_outputs, self.dtype)

    def __call__(self, encoded: EncoderOutput) -> Float[Array, "B h w {self.num_outputs}"]:
        """Return float32 predictions for the tokens of an encoder."""
        return self.predict(*self.embed_tokens(encoded))

    def embed_tokens(self, encoded: EncoderOutput) -> EncoderOutput:
        """Return the tokens and prefix of an encoder with the decoder's `width`."""
        return EncoderOutput(*map(self.embed, encoded)) if self.depth else encoded

    def predict(
        self, tokens: Float[Array, "B h w D"], prefix: Float[Array, "B K D"]
    ) -> Float[Array, "B h w {self.num_outputs}"]:
        """Return float32 predictions for embedded tokens."""
        x = self.transform(tokens.reshape(len(tokens), -1, tokens.shape[-1]), prefix)
        return self.head(x).reshape(*tokens.shape[:3], -1).astype(jnp.float32)

    def transform(
        self, tokens: Float[Array, "B N D"], prefix: Float[Array, "B K D"]
    ) -> Float[Array, "B N D"]:
        """Return embedded tokens after the last block; the prefix takes part in the attention."""
        x = jnp.concatenate([prefix, tokens], axis=1) if prefix.shape[1] else tokens
        return self.blocks(x)[:, prefix.shape[1] :]

    def head(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch {self.num_outputs}"]:
        """Return predictions for the tokens of `transform`."""
        return self.pred(self.norm(x))
