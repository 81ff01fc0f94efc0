"""The base class of pre-training methods."""

import flax.linen as nn
import jax
from jaxtyping import Bool, Float

from fastmim_jax.mim.losses import masked_mse
from fastmim_jax.mim.masking import num_visible, random_mask
from fastmim_jax.mim.targets import Target
from fastmim_jax.models.base import Backbone
from fastmim_jax.models.typing import Array


class Method(nn.Module):
    """A map from normalised images (B, H, W, C) and masking noise to an Output.

    A subclass may override `loss_fn`, a function of (prediction, target, weight), and `groups`, the number
    of groups that a batch must divide into.

    Attributes:
      encoder: a backbone.
      target: the values to predict for every token.
      block_size: side of a masking block in pixels.
      mask_ratio: share of masked blocks.
    """

    encoder: Backbone
    target: Target
    block_size: int
    mask_ratio: float

    loss_fn = staticmethod(masked_mse)
    groups = 1

    @property
    def output_stride(self) -> int:
        """Side in pixels of a token of the Output's grid."""
        return min(self.block_size, self.encoder.stride)

    def num_masked(self, num_blocks: int) -> int:
        """Return how many of `num_blocks` are masked in every image."""
        return num_blocks - num_visible(num_blocks, self.mask_ratio)

    def noise_shape(self, images_shape: tuple[int, ...]) -> tuple[int, int]:
        """Return (B, blocks), the shape of the uniform noise that determines the mask."""
        batch, height, width, _ = images_shape
        return batch, (height // self.block_size) * (width // self.block_size)

    def mask_blocks(
        self, noise: Float[Array, "B N"], images_shape: tuple[int, ...]
    ) -> Bool[Array, "B rows columns"]:
        """Return the mask of blocks from noise of `noise_shape`."""
        _, height, width, _ = images_shape
        grid = (height // self.block_size, width // self.block_size)
        return random_mask(noise, grid, noise.shape[1] - self.num_masked(noise.shape[1]))

    def draw_noise(self, images: Float[Array, "B H W C"]) -> Float[Array, "G N"]:
        """Draw masking noise for images from the "mask" random stream."""
        return jax.random.uniform(self.make_rng("mask"), self.noise_shape(images.shape))
