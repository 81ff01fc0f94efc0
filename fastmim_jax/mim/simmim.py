"""SimMIM (arXiv 2111.09886): mask tokens replace embedded cells, and one linear layer predicts pixels.

Source: the published `models/simmim.py` and `data/data_simmim.py`.
"""

import math

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from fastmim_jax.mim.losses import masked_l1
from fastmim_jax.mim.method import Method
from fastmim_jax.mim.output import Output
from fastmim_jax.models.layers import token_init, upsample_nearest
from fastmim_jax.models.linear import Dense, broadcast_parameter
from fastmim_jax.models.typing import Array


class SimMIM(Method):
    """SimMIM over any backbone.

    Attributes:
      encoder, target, block_size, mask_ratio: see `Method`. Blocks are multiples of the encoder's
        `embed_stride`; predictions of blocks smaller than its `stride` are split as in FastMIM.
    """

    loss_fn = staticmethod(masked_l1)

    def count_masked(self, num_cells: int) -> int:
        """Return how many of `num_cells` are masked in every image: rounded up, as published."""
        return math.ceil(num_cells * self.mask_ratio)

    @nn.compact
    def __call__(self, images: Float[Array, "B H W C"], noise: Float[Array, "B N"] | None = None) -> Output:
        """Return the Output for normalised images; without `noise`, it comes from the "mask" stream."""
        noise = self.draw_noise(images) if noise is None else noise
        channels, block, stride = images.shape[-1], self.block_size, self.encoder.stride
        block_mask = self.mask_blocks(noise, images.shape)
        # Zero masked pixels: overlapping patch embeddings (CMT) would leak them into visible neighbours.
        encoder_input = jnp.where(upsample_nearest(block_mask, block)[..., None], 0.0, images)

        tokens = self.encoder.embed(encoder_input)
        mask_token = self.param("mask_token", token_init, (1, 1, tokens.shape[-1]))
        mask_tokens = broadcast_parameter(mask_token, tokens)
        embed_mask = upsample_nearest(block_mask, block // self.encoder.embed_stride)[..., None]
        encoded = self.encode(jnp.where(embed_mask, mask_tokens, tokens))
        head = Dense(self.target.values(stride, channels), encoded.tokens.dtype, name="pred")
        prediction = head(encoded.tokens).astype(jnp.float32)

        target = self.target(images, self.output_stride)
        if block < stride:
            prediction = self.target.split(prediction, stride // block, stride)
        mask = upsample_nearest(block_mask, max(block // stride, 1)).astype(jnp.float32)
        loss = self.loss_fn(prediction, target, mask)
        return Output(loss, prediction, target, mask, encoder_input, mask, jnp.zeros_like(mask))
