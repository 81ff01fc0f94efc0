"""FastMIM (arXiv 2212.06593): hide blocks of pixels, encode everything, predict HOG of what was hidden."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from fastmim_jax.mim.losses import masked_mean_square
from fastmim_jax.mim.masking import hide_cells, visible_count
from fastmim_jax.mim.output import Output
from fastmim_jax.mim.partial import whole
from fastmim_jax.mim.targets import HOG, Pixels
from fastmim_jax.models.decoder import Decoder
from fastmim_jax.models.layers import refine, token_init


class FastMIM(nn.Module):
    """One pre-training pass.

    Attributes:
      encoder: any backbone: (B, H, W, C) -> Encoded on a grid of its `stride`.
      target: what is predicted for a token.
      block_size: side of a hidden block in pixels. Where it is smaller than the stride, predictions are
        regrouped to the blocks' grid, so that the loss counts exactly the hidden pixels.
      mask_ratio: share of hidden blocks.
      decoder: keyword arguments of the Decoder.
      reconstruct: how the decoder is used: `whole`, or a Partial where blocks are no smaller than tokens.
    """

    encoder: nn.Module
    target: HOG | Pixels
    block_size: int
    mask_ratio: float
    decoder: dict
    reconstruct: Callable = whole

    error = staticmethod(masked_mean_square)
    groups = 1  # parts that a batch must divide into

    @property
    def cell(self):
        """Side of a token of the method's own grid, in pixels."""
        return min(self.block_size, self.encoder.stride)

    def hidden_count(self, cells):
        """How many of so many blocks are hidden in every image."""
        return cells - visible_count(cells, self.mask_ratio)

    def noise_shape(self, images_shape):
        """(B, cells): the shape of the uniform noise that decides what is hidden."""
        batch, height, width, _ = images_shape
        return batch, (height // self.block_size) * (width // self.block_size)

    @nn.compact
    def __call__(self, images, noise=None):
        """(B, H, W, C) normalised images -> Output; without `noise`, drawn from the "mask" generator."""
        if noise is None:
            noise = jax.random.uniform(self.make_rng("mask"), self.noise_shape(images.shape))
        _, height, width, channels = images.shape
        block, stride = self.block_size, self.encoder.stride

        grid = (height // block, width // block)
        count = self.hidden_count(grid[0] * grid[1])
        blocks = hide_cells(noise, grid, grid[0] * grid[1] - count)
        mask_token = self.param("mask_token", token_init, (channels,))
        seen = jnp.where(refine(blocks, block)[..., None], mask_token, images)
        hidden = refine(blocks, max(block // stride, 1))

        decoder = Decoder(self.target.values(stride, channels), **self.decoder, name="decoder")
        tokens, prefix = decoder.embed_tokens(self.encoder(seen))
        counts = (count * max(block // stride, 1) ** 2,)
        prediction, weight, thrown = self.reconstruct(decoder, tokens, prefix, hidden, counts, noise)

        target = self.target(images, self.cell)
        if block < stride:
            prediction = self.target.split(prediction, stride // block, stride)
            weight, thrown = (refine(x, stride // block) for x in (weight, thrown))
        mask = hidden.astype(jnp.float32)
        loss = self.error(prediction, target, mask * weight)
        return Output(loss, prediction, target, mask, seen, mask * weight, thrown)
