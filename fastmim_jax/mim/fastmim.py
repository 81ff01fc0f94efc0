"""FastMIM (arXiv 2212.06593): hide blocks of pixels, encode everything, predict HOG of what was hidden."""

from collections.abc import Callable, Mapping

import flax.linen as nn
import jax.numpy as jnp

from fastmim_jax.mim.method import Method
from fastmim_jax.mim.output import Output
from fastmim_jax.mim.partial import decode_all
from fastmim_jax.models.decoder import Decoder
from fastmim_jax.models.layers import token_init, upsample_nearest


class FastMIM(Method):
    """One pre-training pass.

    Attributes:
      encoder: any backbone.
      target, block_size, mask_ratio: as of every Method. Where blocks are smaller than the tokens of the
        encoder, predictions are regrouped to their grid, so that the loss counts exactly the hidden pixels.
      decoder: keyword arguments of the Decoder.
      reconstruct: how the decoder is used: `decode_all` or, where blocks cover tokens, a Partial.
    """

    decoder: Mapping
    reconstruct: Callable = decode_all

    @nn.compact
    def __call__(self, images, noise=None):
        """(B, H, W, C) normalised images -> Output; without `noise`, drawn from the "mask" generator."""
        noise = self.draw_noise(images) if noise is None else noise
        channels, block, stride = images.shape[-1], self.block_size, self.encoder.stride

        blocks = self.mask_blocks(noise, images.shape)
        mask_token = self.param("mask_token", token_init, (channels,))
        encoder_input = jnp.where(upsample_nearest(blocks, block)[..., None], mask_token, images)
        hidden = upsample_nearest(blocks, max(block // stride, 1))

        decoder = Decoder(self.target.values(stride, channels), **self.decoder, name="decoder")
        tokens, prefix = decoder.embed_tokens(self.encoder(encoder_input))
        counts = (self.num_masked(noise.shape[1]) * max(block // stride, 1) ** 2,)
        prediction, weight, thrown = self.reconstruct(decoder, tokens, prefix, hidden, counts, noise)

        target = self.target(images, self.output_stride)
        if block < stride:
            prediction = self.target.split(prediction, stride // block, stride)
            weight, thrown = (upsample_nearest(x, stride // block) for x in (weight, thrown))
        mask = hidden.astype(jnp.float32)
        loss = self.error(prediction, target, mask * weight)
        return Output(loss, prediction, target, mask, encoder_input, mask * weight, thrown)
