"""MAE (arXiv 2111.06377): only visible patches are encoded; a deep, narrow decoder sees them all.

Source: the published `models_mae.py`.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from fastmim_jax.mim.losses import masked_mean_square
from fastmim_jax.mim.masking import sort_cells, visible_count
from fastmim_jax.mim.output import Output
from fastmim_jax.mim.partial import whole
from fastmim_jax.mim.targets import HOG, Pixels
from fastmim_jax.models.decoder import Decoder
from fastmim_jax.models.layers import FixedPositions, refine, take_rows, token_init


class MAE(nn.Module):
    """One pre-training pass.

    Attributes:
      encoder: a backbone that can leave tokens out.
      target: what is predicted for a patch.
      mask_ratio: share of hidden patches.
      decoder: keyword arguments of the Decoder.
      reconstruct: how the decoder is used: `whole` or a Partial.
    """

    encoder: nn.Module
    target: HOG | Pixels
    mask_ratio: float
    decoder: dict
    reconstruct: Callable = whole

    error = staticmethod(masked_mean_square)
    groups = 1  # parts that a batch must divide into

    @property
    def cell(self):
        """Side of a token of the method's own grid, in pixels."""
        return self.encoder.stride

    def hidden_count(self, cells):
        """How many of so many patches are hidden in every image."""
        return cells - visible_count(cells, self.mask_ratio)

    def noise_shape(self, images_shape):
        """(B, patches): the shape of the uniform noise that decides what is hidden."""
        batch, height, width, _ = images_shape
        return batch, (height // self.encoder.stride) * (width // self.encoder.stride)

    @nn.compact
    def __call__(self, images, noise=None):
        """(B, H, W, C) normalised images -> Output; without `noise`, drawn from the "mask" generator."""
        if noise is None:
            noise = jax.random.uniform(self.make_rng("mask"), self.noise_shape(images.shape))
        size = self.encoder.stride
        grid = (images.shape[1] // size, images.shape[2] // size)
        count = self.hidden_count(noise.shape[1])
        visible = noise.shape[1] - count
        order, place = sort_cells(noise)
        order = order[:, :visible]
        hidden = (place >= visible).reshape(-1, *grid)

        encoded = self.encoder.encode_some(images, order)
        decoder = Decoder(self.target.values(size, images.shape[-1]), **self.decoder, name="decoder")
        tokens, cls = decoder.embed_tokens(encoded)
        tokens = take_rows(tokens, place, order).reshape(-1, *grid, tokens.shape[-1])
        token = self.param("mask_token", token_init, (1, 1, tokens.shape[-1])).astype(tokens.dtype)
        tokens = FixedPositions()(jnp.where(hidden[..., None], token, tokens))
        prediction, weight, thrown = self.reconstruct(decoder, tokens, cls, hidden, (count,), noise)

        mask, target = hidden.astype(jnp.float32), self.target(images, size)
        seen = jnp.where(refine(hidden, size)[..., None], 0.0, images)
        loss = self.error(prediction, target, mask * weight)
        return Output(loss, prediction, target, mask, seen, mask * weight, thrown)
