"""What all hierarchical backbones share: a stem, and four stages with halvings between them."""

import flax.linen as nn
import jax.numpy as jnp

from fastmim_jax.errors import UserError
from fastmim_jax.models.layers import Encoded

STAGES = 4


class Pyramid(nn.Module):
    """A backbone whose cells are 4, 8, 16 and 32 pixels wide, stage by stage.

    A subclass has `depths` and, made in its setup: `stem`, from images to the cells of the first stage;
    `downsamples`, three modules that halve a grid; `stages`, four; and `norm`, after the last.
    Images may have any sides that are multiples of 32, and any number of channels.
    """

    @property
    def stride(self):
        """Pixels per output cell, along one side."""
        return self.embed_stride * 2 ** (STAGES - 1)

    def __call__(self, images):
        """(B, H, W, C) -> Encoded: tokens (B, H/32, W/32, D), no prefix."""
        return self.encode(self.embed(images))

    def embed(self, images):
        """(B, H, W, C) -> (B, H/4, W/4, D of the first stage).

        Raises:
          UserError: sides that are no multiples of 32.
        """
        height, width = images.shape[1:3]
        if height % self.stride or width % self.stride:
            raise UserError(
                f"images of {height} x {width} pixels do not halve evenly down to cells of {self.stride}: "
                f"give sides that are multiples of {self.stride}"
            )
        return self.stem(images)

    def transform(self, tokens, *parts):
        """What `embed` gives -> Encoded, not yet normalised."""
        tokens = self._grids(tokens, *parts)[-1]
        return Encoded(tokens, jnp.zeros((tokens.shape[0], 0, tokens.shape[-1]), tokens.dtype))

    def encode(self, tokens, *parts):
        """What `embed` gives -> Encoded, normalised. For parts see `Windowed`."""
        tokens, prefix = self.transform(tokens, *parts)
        return Encoded(self.norm(tokens), prefix)

    def features(self, images):
        """(B, H, W, C) -> the grid after each stage, (B, H/4, W/4, D) first; the last is normalised."""
        *grids, last = self._grids(self.embed(images))
        return [*grids, self.norm(last)]

    def _grids(self, x, *parts):
        grids = []
        for index, stage in enumerate(self.stages):
            if index:
                x = self.downsamples[index - 1](x)
            x = stage(x, *(part.refined(2 ** (STAGES - 1 - index)) for part in parts))
            grids.append(x)
        return grids

    def depth_group(self, path):
        """The group of a parameter for layer-wise learning rates, as the published fine-tuning has it.

        0 for the stem, then one group per block; a downsampling goes with the block `downsample_offset`
        after the last one before it, and what comes after all blocks has a group of its own.

        Args:
          path: of a parameter of this module, joined by "/".
        """
        name, *rest = path.split("/")
        kind, _, index = name.partition("_")
        if kind == "stem":
            return 0
        if kind == "downsamples":
            return sum(self.depths[: int(index) + 1]) + self.downsample_offset
        if kind == "stages" and rest[0] == "blocks":
            return sum(self.depths[: int(index)]) + 1 + int(rest[1])
        return sum(self.depths) + 1

    embed_stride = 4  # pixels per cell of `embed`
    separates = False  # whether Parts can be given, see `Windowed`
    omits = False  # whether tokens can be left out, see `ViT.encode_some`
    downsample_offset = 0
    pooling = "norm_pool"  # of the published classifier, see `fastmim_jax.models.heads`
