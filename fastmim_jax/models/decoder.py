"""The transformer decoder of FastMIM, MixMIM and MAE; the method inserts mask tokens and positions."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float

from fastmim_jax.models.attention import TransformerBlock, TransformerStack
from fastmim_jax.models.attention_kernels import describe_kernel
from fastmim_jax.models.base import EncoderOutput
from fastmim_jax.models.layers import layer_norm
from fastmim_jax.models.linear import Dense
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
    kernel: str = "auto"
    dtype: DTypeLike = jnp.float32
    remat: str = "none"
    layers: str = "unrolled"
    residual_dtype: DTypeLike | None = None

    @property
    def num_heads(self) -> int:
        """Number of heads of its attention."""
        return self.heads or max(self.width // HEAD_WIDTH, 1)

    @property
    def attention_kernel(self) -> str:
        """Kernel of its attention on the mesh that is set, see `describe_kernel`; "" without attention."""
        if not self.depth:
            return ""
        return describe_kernel(self.kernel, self.dtype, self.width // self.num_heads, has_bias=False)

    def setup(self):
        if self.depth:
            self.embed = Dense(self.width, self.dtype)
        options = dict(
            heads=self.num_heads,
            mlp_ratio=self.mlp_ratio,
            epsilon=self.epsilon,
            kernel=self.kernel,
            dtype=self.dtype,
        )
        stack = dict(remat=self.remat, layers=self.layers, residual_dtype=self.residual_dtype)
        self.blocks = TransformerStack(TransformerBlock, self.depth, options, **stack)
        self.norm = layer_norm(self.epsilon, self.dtype, name="norm")
        self.pred = self.make_head()

    def make_head(self) -> nn.Module:
        """Return the head of a token after the last norm."""
        return Dense(self.num_outputs, self.dtype)

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
