"""The base class of pre-training methods."""

import flax.linen as nn
import jax
from jaxtyping import Bool, Float, Int

from fastmim_jax.mim.fusion import LayerFusion
from fastmim_jax.mim.losses import masked_mse
from fastmim_jax.mim.mask_noise import arrange_noise
from fastmim_jax.mim.masking import num_visible, random_mask
from fastmim_jax.mim.targets import Target
from fastmim_jax.models.base import Backbone, EncoderOutput
from fastmim_jax.models.typing import Array


class Method(nn.Module, kw_only=True):
    """A map from normalised images (B, H, W, C) and masking noise to an Output.

    The order of the noise is the mask. Uniform noise becomes masking noise by `arrange_noise`.

    A subclass may override `loss_fn`, a function of (prediction, target, weight), `groups`, the number of
    groups that a batch must divide into, and `count_masked`, the rounding of the mask ratio.

    Attributes:
      encoder: a backbone.
      target: the values to predict for every token.
      block_size: side of a masking block in pixels.
      mask_ratio: share of masked blocks.
      mask_noise: colour of the masking noise, see `mim.mask_noise`.
      mask_grid: side in blocks of the squares that are masked or visible as a whole.
      fuse: a LayerFusion of the encoder's blocks, which needs `has_one_grid`; None: the last block alone.
    """

    encoder: Backbone
    target: Target
    block_size: int
    mask_ratio: float
    mask_noise: str = "white"
    mask_grid: int = 1
    fuse: LayerFusion | None = None

    loss_fn = staticmethod(masked_mse)
    groups = 1

    @property
    def output_stride(self) -> int:
        """Side in pixels of a token of the Output's grid."""
        return min(self.block_size, self.encoder.stride)

    def num_masked(self, num_blocks: int) -> int:
        """Return how many of `num_blocks` are masked in every image."""
        area = self.mask_grid**2
        return area * self.count_masked(num_blocks // area)

    def count_masked(self, num_cells: int) -> int:
        """Return how many of `num_cells` squares of blocks are masked in every image."""
        return num_cells - num_visible(num_cells, self.mask_ratio)

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

    def arrange_noise(
        self, noise: Float[Array, "G N"], images_shape: tuple[int, ...]
    ) -> Float[Array, "G N"]:
        """Return masking noise from uniform noise of `noise_shape`."""
        _, height, width, _ = images_shape
        grid = (height // self.block_size, width // self.block_size)
        return arrange_noise(noise, grid, self.mask_noise, self.mask_grid)

    def encode(self, tokens: Float[Array, "B h w D"]) -> EncoderOutput:
        """Return the encoded and normalised tokens for those of `encoder.embed`."""
        if self.fuse is None:
            return self.encoder.encode(tokens)
        return self.encoder.normalize(self.fuse(self.encoder.grid_outputs(tokens)))

    def encode_visible(self, images: Float[Array, "B H W C"], ids_keep: Int[Array, "B n"]) -> EncoderOutput:
        """Return the encoded and normalised visible tokens; see `Backbone.encode_visible`."""
        if self.fuse is None:
            return self.encoder.encode_visible(images, ids_keep)
        return self.encoder.normalize(self.fuse(self.encoder.visible_outputs(images, ids_keep)))

    def draw_noise(self, images: Float[Array, "B H W C"]) -> Float[Array, "G N"]:
        """Draw masking noise for images from the "mask" random stream."""
        noise = jax.random.uniform(self.make_rng("mask"), self.noise_shape(images.shape))
        return self.arrange_noise(noise, images.shape)
