"""MAE (arXiv 2111.06377): encode visible patches only; a deep, narrow decoder reconstructs the others.

Source: the published `models_mae.py`.
"""

from collections.abc import Callable, Mapping

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from fastmim_jax.mim.masking import shuffle_ids
from fastmim_jax.mim.method import Method
from fastmim_jax.mim.output import Output
from fastmim_jax.mim.partial import decode_all
from fastmim_jax.models.decoder import Decoder
from fastmim_jax.models.layers import restore_grid, token_init, upsample_nearest
from fastmim_jax.models.positions import FixedPositions
from fastmim_jax.models.typing import Array


class MAE(Method):
    """MAE over a backbone with `supports_token_dropping`.

    Attributes:
      encoder, target, block_size, mask_ratio: see `Method`; a block is a patch of the encoder.
      decoder: keyword arguments of the Decoder.
      reconstruct: `decode_all` or a PartialReconstruction.
    """

    decoder: Mapping
    reconstruct: Callable = decode_all

    @nn.compact
    def __call__(self, images: Float[Array, "B H W C"], noise: Float[Array, "B N"] | None = None) -> Output:
        """Return the Output for normalised images; without `noise`, it comes from the "mask" stream."""
        noise = self.draw_noise(images) if noise is None else noise
        size = self.encoder.stride
        grid = (images.shape[1] // size, images.shape[2] // size)
        num_masked = self.num_masked(noise.shape[1])
        num_visible = noise.shape[1] - num_masked
        ids_shuffle, ids_restore = shuffle_ids(noise)
        ids_keep = ids_shuffle[:, :num_visible]
        mask = (ids_restore >= num_visible).reshape(-1, *grid)

        encoded = self.encode_visible(images, ids_keep)
        decoder = Decoder(self.target.values(size, images.shape[-1]), **self.decoder, name="decoder")
        tokens, cls = decoder.embed_tokens(encoded)
        mask_token = self.param("mask_token", token_init, (1, 1, tokens.shape[-1]))
        tokens = FixedPositions()(restore_grid(tokens, mask_token, mask, ids_restore, ids_keep))
        prediction, weight, thrown = self.reconstruct(decoder, tokens, cls, mask, (num_masked,), noise)

        target = self.target(images, size)
        encoder_input = jnp.where(upsample_nearest(mask, size)[..., None], 0.0, images)
        mask = mask.astype(jnp.float32)
        loss = self.loss_fn(prediction, target, mask * weight)
        return Output(loss, prediction, target, mask, encoder_input, mask * weight, thrown)
