"""What all hierarchical backbones share: a stem, and four stages with halvings between them."""

import flax.linen as nn
import jax.numpy as jnp

from fastmim_jax.errors import UserError
from fastmim_jax.models.layers import EncoderOutput
from fastmim_jax.models.stack import drop_path_rates

STAGES = 4


class Pyramid(nn.Module):
    """A backbone whose cells are 4, 8, 16 and 32 pixels wide, stage by stage.

    A subclass has `depths`, `remat`, `layers` and, made in its setup: `stem`, from images to the cells of
    the first stage; `downsamples`, three modules that halve a grid; `stages`, four; and `norm`, after the
    last. Images may have any sides that are multiples of 32, and any number of channels.

    Attributes:
      drop_path: how often the last block drops a residual branch, see `drop_path_rates`.
    """

    drop_path: float = 0.0

    @property
    def num_blocks(self):
        """Number of blocks in all stages."""
        return sum(self.depths)

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
        return _without_prefix(self._grids(tokens, *parts)[-1])

    def encode(self, tokens, *parts):
        """What `embed` gives -> Encoded, normalised. For parts see `WindowedBackbone`."""
        tokens, prefix = self.transform(tokens, *parts)
        return EncoderOutput(self.norm(tokens), prefix)

    def outputs(self, images):
        """(B, H, W, C) -> Encoded after each stage, (B, H/4, W/4, D) tokens first; the last normalised."""
        *grids, last = self._grids(self.embed(images))
        return [_without_prefix(tokens) for tokens in (*grids, self.norm(last))]

    def features(self, images):
        """The grids of `outputs`."""
        return [encoded.tokens for encoded in self.outputs(images)]

    def stage_options(self, stage):
        """How many blocks a stage has and how they are run, as keyword arguments of its module."""
        rates = drop_path_rates(self.drop_path, self.depths)[stage]
        return dict(depth=self.depths[stage], remat=self.remat, layers=self.layers, drop_path=rates)

    def _grids(self, x, *parts):
        grids = []
        for index, stage in enumerate(self.stages):
            if index:
                x = self.downsamples[index - 1](x)
            x = stage(x, *(part.refined(2 ** (STAGES - 1 - index)) for part in parts))
            grids.append(x)
        return grids

    def layer_group(self, path):
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
        return self.num_blocks + 1

    embed_stride = 4  # pixels per cell of `embed`
    supports_groups = False  # whether Parts can be given, see `WindowedBackbone`
    supports_token_dropping = False  # whether tokens can be left out, see `ViT.encode_visible`
    downsample_offset = 0
    resampling = {}  # schemes of `resample.matrices_for` that published fine-tuning has of its own
    official_tail_groups = 1  # groups from the last block's to that of all that follows, as published
    official_no_decay = ()  # arrays with several axes that fine-tuning does not decay
    pooling = "norm_pool"  # of the published classifier, see `fastmim_jax.models.heads`


def _without_prefix(tokens):
    """A grid (B, h, w, D) as Encoded."""
    return EncoderOutput(tokens, jnp.zeros((len(tokens), 0, tokens.shape[-1]), tokens.dtype))
