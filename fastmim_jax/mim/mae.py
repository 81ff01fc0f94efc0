"""MAE (arXiv 2111.06377): only visible patches are encoded; a deep, narrow decoder sees them all.

Source: the published `models_mae.py`.
"""

from collections.abc import Callable, Mapping

import flax.linen as nn
import jax.numpy as jnp

from fastmim_jax.mim.masking import shuffle_ids
from fastmim_jax.mim.method import Method
from fastmim_jax.mim.output import Output
from fastmim_jax.mim.partial import decode_all
from fastmim_jax.models.decoder import Decoder
from fastmim_jax.models.layers import FixedPositions, gather_rows, token_init, upsample_nearest


class MAE(Method):
    """One pre-training pass.

    Attributes:
      encoder: a backbone that can leave tokens out.
      target, block_size, mask_ratio: as of every Method; a block is a patch of the encoder.
      decoder: keyword arguments of the Decoder.
      reconstruct: how the decoder is used: `decode_all` or a Partial.
    """

    decoder: Mapping
    reconstruct: Callable = decode_all

    @nn.compact
    def __call__(self, images, noise=None):
        """(B, H, W, C) normalised images -> Output; without `noise`, drawn from the "mask" generator."""
        noise = self.draw_noise(images) if noise is None else noise
        size = self.encoder.stride
        grid = (images.shape[1] // size, images.shape[2] // size)
        count = self.num_masked(noise.shape[1])
        visible = noise.shape[1] - count
        order, place = shuffle_ids(noise)
        order = order[:, :visible]
        hidden = (place >= visible).reshape(-1, *grid)

        encoded = self.encoder.encode_visible(images, order)
        decoder = Decoder(self.target.values(size, images.shape[-1]), **self.decoder, name="decoder")
        tokens, cls = decoder.embed_tokens(encoded)
        tokens = gather_rows(tokens, place, order).reshape(-1, *grid, tokens.shape[-1])
        token = self.param("mask_token", token_init, (1, 1, tokens.shape[-1])).astype(tokens.dtype)
        tokens = FixedPositions()(jnp.where(hidden[..., None], token, tokens))
        prediction, weight, thrown = self.reconstruct(decoder, tokens, cls, hidden, (count,), noise)

        mask, target = hidden.astype(jnp.float32), self.target(images, size)
        encoder_input = jnp.where(upsample_nearest(hidden, size)[..., None], 0.0, images)
        loss = self.error(prediction, target, mask * weight)
        return Output(loss, prediction, target, mask, encoder_input, mask * weight, thrown)
