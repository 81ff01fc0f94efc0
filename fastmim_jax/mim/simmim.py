"""SimMIM (arXiv 2111.09886): hidden cells are masked after embedding, and one linear layer predicts pixels.

Source: the published `models/simmim.py` and `data/data_simmim.py`.
"""

import math

import flax.linen as nn
import jax.numpy as jnp

from fastmim_jax.mim.losses import masked_mean_absolute
from fastmim_jax.mim.method import Method
from fastmim_jax.mim.output import Output
from fastmim_jax.models.layers import Dense, token_init, upsample_nearest


class SimMIM(Method):
    """One pre-training pass.

    Attributes:
      encoder: any backbone with cells of `embed_stride` pixels to mask and of `stride` pixels to predict.
      target, block_size, mask_ratio: as of every Method; blocks are multiples of `embed_stride`. Where they
        are smaller than the stride, predictions are regrouped to their grid, as FastMIM does it.
    """

    error = staticmethod(masked_mean_absolute)

    def num_masked(self, cells):
        """How many of so many blocks are hidden in every image: rounded up, as published."""
        return math.ceil(cells * self.mask_ratio)

    @nn.compact
    def __call__(self, images, noise=None):
        """(B, H, W, C) normalised images -> Output; without `noise`, drawn from the "mask" generator."""
        noise = self.draw_noise(images) if noise is None else noise
        channels, block, stride = images.shape[-1], self.block_size, self.encoder.stride
        blocks = self.mask_blocks(noise, images.shape)
        # Hidden pixels are 0 too: where cells overlap, as CMT's do, their neighbours would have seen them.
        encoder_input = jnp.where(upsample_nearest(blocks, block)[..., None], 0.0, images)

        tokens = self.encoder.embed(encoder_input)
        token = self.param("mask_token", token_init, (1, 1, tokens.shape[-1])).astype(tokens.dtype)
        masked = upsample_nearest(blocks, block // self.encoder.embed_stride)[..., None]
        encoded = self.encoder.encode(jnp.where(masked, token, tokens))
        head = Dense(self.target.values(stride, channels), encoded.tokens.dtype, name="pred")
        prediction = head(encoded.tokens).astype(jnp.float32)

        target = self.target(images, self.output_stride)
        if block < stride:
            prediction = self.target.split(prediction, stride // block, stride)
        mask = upsample_nearest(blocks, max(block // stride, 1)).astype(jnp.float32)
        loss = self.error(prediction, target, mask)
        return Output(loss, prediction, target, mask, encoder_input, mask, jnp.zeros_like(mask))
