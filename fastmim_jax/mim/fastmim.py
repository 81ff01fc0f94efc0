"""FastMIM (arXiv 2212.06593): hide blocks of pixels, encode everything, predict HOG of what was hidden."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from fastmim_jax.mim.losses import masked_mean_square
from fastmim_jax.mim.masking import hide_cells, refine
from fastmim_jax.mim.targets import HOG, Pixels
from fastmim_jax.models.decoder import Decoder
from fastmim_jax.models.layers import token_init


class Output(NamedTuple):
    """What a method gives. float32; prediction, target and mask share the grid of the method.

    loss: (). prediction, target: (B, h, w, P). mask: (B, h, w), 1 = hidden, 0 = visible.
    seen: (B, H, W, C), the pixels that the encoder was given.
    """

    loss: jax.Array
    prediction: jax.Array
    target: jax.Array
    mask: jax.Array
    seen: jax.Array


class FastMIM(nn.Module):
    """One pre-training pass.

    Attributes:
      encoder: any backbone: (B, H, W, C) -> Encoded on a grid of its `stride`.
      target: what is predicted for a token.
      block_size: side of a hidden block in pixels. Where it is smaller than the stride, predictions are
        regrouped to the blocks' grid, so that the loss counts exactly the hidden pixels.
      mask_ratio: share of hidden blocks.
      decoder: keyword arguments of the Decoder.
    """

    encoder: nn.Module
    target: HOG | Pixels
    block_size: int
    mask_ratio: float
    decoder: dict

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

        blocks = hide_cells(noise, (height // block, width // block), self.mask_ratio)
        mask_token = self.param("mask_token", token_init, (channels,))
        seen = jnp.where(refine(blocks, block)[..., None], mask_token, images)

        encoded = self.encoder(seen)
        outputs = self.target.values(stride, channels)
        prediction = Decoder(outputs, **self.decoder, name="decoder")(encoded)

        target = self.target(images, min(block, stride))
        if block < stride:
            prediction = self.target.split(prediction, stride // block, stride)
        mask = refine(blocks, max(block // stride, 1)).astype(jnp.float32)
        loss = masked_mean_square(prediction, target, mask)
        return Output(loss, prediction, target, mask, seen)
