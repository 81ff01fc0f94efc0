"""FastMIM (arXiv 2212.06593): mask blocks of pixels, encode the whole image, predict HOG of the blocks."""

from collections.abc import Callable, Mapping

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from fastmim_jax.mim.method import Method
from fastmim_jax.mim.output import Output
from fastmim_jax.mim.partial import decode_all
from fastmim_jax.models.decoder import Decoder
from fastmim_jax.models.layers import token_init, upsample_nearest
from fastmim_jax.models.typing import Array


class FastMIM(Method):
    """FastMIM over any backbone.

    Blocks smaller than the tokens of the encoder are predicted by these tokens; predictions are then split
    to the grid of blocks, so that the loss covers exactly the masked pixels.

    Attributes:
      encoder, target, block_size, mask_ratio: see `Method`.
      decoder: keyword arguments of the Decoder.
      reconstruct: `decode_all` or, for blocks of at least a token, a PartialReconstruction.
    """

    decoder: Mapping
    reconstruct: Callable = decode_all

    @nn.compact
    def __call__(self, images: Float[Array, "B H W C"], noise: Float[Array, "B N"] | None = None) -> Output:
        """Return the Output for normalised images; without `noise`, it comes from the "mask" stream."""
        noise = self.draw_noise(images) if noise is None else noise
        channels, block, stride = images.shape[-1], self.block_size, self.encoder.stride

        block_mask = self.mask_blocks(noise, images.shape)
        mask_token = self.param("mask_token", token_init, (channels,))
        encoder_input = jnp.where(upsample_nearest(block_mask, block)[..., None], mask_token, images)
        mask = upsample_nearest(block_mask, max(block // stride, 1))

        decoder = Decoder(self.target.values(stride, channels), **self.decoder, name="decoder")
        tokens, prefix = decoder.embed_tokens(self.encode(self.encoder.embed(encoder_input)))
        num_masked = (self.num_masked(noise.shape[1]) * max(block // stride, 1) ** 2,)
        prediction, weight, thrown = self.reconstruct(decoder, tokens, prefix, mask, num_masked, noise)

        target = self.target(images, self.output_stride)
        if block < stride:
            prediction = self.target.split(prediction, stride // block, stride)
            weight, thrown = (upsample_nearest(x, stride // block) for x in (weight, thrown))
        mask = mask.astype(jnp.float32)
        loss = self.loss_fn(prediction, target, mask * weight)
        return Output(loss, prediction, target, mask, encoder_input, mask * weight, thrown)
