"""SimMIM (arXiv 2111.09886): hidden cells are masked after embedding, and one linear layer predicts pixels.

Source: the published `models/simmim.py` and `data/data_simmim.py`.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from fastmim_jax.mim.losses import masked_mean_absolute
from fastmim_jax.mim.masking import hide_cells
from fastmim_jax.mim.output import Output
from fastmim_jax.mim.targets import HOG, Pixels
from fastmim_jax.models.layers import Dense, refine, token_init


class SimMIM(nn.Module):
    """One pre-training pass.

    Attributes:
      encoder: any backbone with cells of `embed_stride` pixels to mask and of `stride` pixels to predict.
      target: what is predicted for a token.
      block_size: side of a hidden block in pixels, a multiple of `embed_stride`. Where it is smaller than
        the stride, predictions are regrouped to the blocks' grid, as FastMIM does it.
      mask_ratio: share of hidden blocks.
    """

    encoder: nn.Module
    target: HOG | Pixels
    block_size: int
    mask_ratio: float

    error = staticmethod(masked_mean_absolute)
    groups = 1  # parts that a batch must divide into

    @property
    def cell(self):
        """Side of a token of the method's own grid, in pixels."""
        return min(self.block_size, self.encoder.stride)

    def hidden_count(self, cells):
        """How many of so many blocks are hidden in every image: rounded up, as published."""
        return math.ceil(cells * self.mask_ratio)

    def noise_shape(self, images_shape):
        """(B, blocks): the shape of the uniform noise that decides what is hidden."""
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
        cells = grid[0] * grid[1]
        blocks = hide_cells(noise, grid, cells - self.hidden_count(cells))
        # Hidden pixels are 0 too: where cells overlap, as CMT's do, their neighbours would have seen them.
        seen = jnp.where(refine(blocks, block)[..., None], 0.0, images)

        tokens = self.encoder.embed(seen)
        token = self.param("mask_token", token_init, (1, 1, tokens.shape[-1])).astype(tokens.dtype)
        masked = refine(blocks, block // self.encoder.embed_stride)[..., None]
        encoded = self.encoder.encode(jnp.where(masked, token, tokens))
        head = Dense(self.target.values(stride, channels), encoded.tokens.dtype, name="pred")
        prediction = head(encoded.tokens).astype(jnp.float32)

        target = self.target(images, self.cell)
        if block < stride:
            prediction = self.target.split(prediction, stride // block, stride)
        mask = refine(blocks, max(block // stride, 1)).astype(jnp.float32)
        loss = self.error(prediction, target, mask)
        return Output(loss, prediction, target, mask, seen, mask, jnp.zeros_like(mask))
