"""What pre-training methods have in common."""

import flax.linen as nn
import jax

from fastmim_jax.mim.losses import masked_mean_square
from fastmim_jax.mim.masking import num_visible, random_mask
from fastmim_jax.mim.targets import Target


class Method(nn.Module):
    """From (B, H, W, C) normalised images, and the noise that decides what is hidden, to an Output.

    Attributes:
      encoder: a backbone.
      target: what is predicted for a token.
      block_size: side in pixels of the cells that are hidden as a whole.
      mask_ratio: share of hidden cells.

    A subclass may have its own `error`, the loss of (prediction, target, weight), and its own `groups`, the
    parts that a batch must divide into.
    """

    encoder: nn.Module
    target: Target
    block_size: int
    mask_ratio: float

    error = staticmethod(masked_mean_square)
    groups = 1

    @property
    def output_stride(self):
        """Side in pixels of a token of the method's own grid, that of its Output."""
        return min(self.block_size, self.encoder.stride)

    def num_masked(self, cells):
        """How many of so many cells are hidden in every image."""
        return cells - num_visible(cells, self.mask_ratio)

    def noise_shape(self, images_shape):
        """(B, cells): the shape of the uniform noise that decides what is hidden."""
        batch, height, width, _ = images_shape
        return batch, (height // self.block_size) * (width // self.block_size)

    def mask_blocks(self, noise, images_shape):
        """Noise of `noise_shape` -> (B, rows, columns) bool, True where a block is hidden."""
        _, height, width, _ = images_shape
        grid = (height // self.block_size, width // self.block_size)
        return random_mask(noise, grid, noise.shape[1] - self.num_masked(noise.shape[1]))

    def draw_noise(self, images):
        """Noise for (B, H, W, C) images, from the "mask" generator."""
        return jax.random.uniform(self.make_rng("mask"), self.noise_shape(images.shape))
