"""The base class of hierarchical backbones: a stem, and four stages with downsampling between them."""

from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float

from fastmim_jax.models.base import AttentionGroups, Backbone, EncoderOutput
from fastmim_jax.models.stack import Stack, drop_path_rates
from fastmim_jax.models.typing import Array

STAGES = 4


class PyramidStage(nn.Module):
    """Base class of a stage: blocks of one class on one grid.

    Attributes:
      block: keyword arguments of the blocks.
      depth, remat, layers, drop_path, residual_dtype: see `Stack`.
    """

    depth: int
    block: Mapping[str, Any]
    remat: str = "none"
    layers: str = "unrolled"
    drop_path: tuple[float, ...] | None = None
    residual_dtype: DTypeLike | None = None

    def stack(self, block: type[nn.Module]) -> Stack:
        """Return the module of all blocks, in a compact method; their parameters are under "blocks"."""
        options = self.remat, self.layers, self.drop_path, self.residual_dtype
        return Stack(block, self.depth, self.block, *options, name="blocks")


class Pyramid(Backbone):
    """A backbone whose tokens are 4, 8, 16 and 32 pixels wide, stage by stage.

    A subclass has the field `depths` and makes in its setup: `stem`, from images to the tokens of the first
    stage; `downsamples`, three modules that halve a grid; `stages`, four modules; and `norm`, the last.
    """

    embed_stride = 4
    downsample_offset: ClassVar[int] = 0  # layer groups from the block before a downsampling to its own

    @property
    def stride(self) -> int:
        """Pixels per output token, along one side."""
        return self.embed_stride * 2 ** (STAGES - 1)

    @property
    def num_blocks(self) -> int:
        """Number of blocks, in all stages."""
        return sum(self.depths)

    @property
    def layer_names(self) -> tuple[str, ...]:
        """("stage 1", ..., "stage 4")."""
        return tuple(f"stage {number}" for number in range(1, STAGES + 1))

    @property
    def layer_strides(self) -> tuple[int, ...]:
        """Pixels per token after each stage: (4, 8, 16, 32)."""
        return tuple(self.embed_stride * 2**stage for stage in range(STAGES))

    @property
    def stage_widths(self) -> tuple[int, ...]:
        """Channels of each stage."""
        return self.widths

    def embed(self, images: Float[Array, "B H W C"]) -> Float[Array, "B H//4 W//4 D"]:
        """Return the tokens of the first stage, without positions.

        Raises:
          ValueError: sides that are not multiples of 32.
        """
        height, width = images.shape[1:3]
        if height % self.stride or width % self.stride:
            raise ValueError(
                f"images are {height} x {width} pixels, expected sides that are multiples of {self.stride}"
            )
        return self.stem(images)

    def transform(
        self, tokens: Float[Array, "B h w D"], groups: AttentionGroups | None = None
    ) -> EncoderOutput:
        """Return the tokens of the last stage, before the last norm, for those of `embed`."""
        return _without_prefix(self._stage_outputs(tokens, groups)[-1])

    def encode(
        self, tokens: Float[Array, "B h w D"], groups: AttentionGroups | None = None
    ) -> EncoderOutput:
        """Return the normalised tokens of the last stage for those of `embed`.

        groups: of the last grid; needs `supports_groups`.
        """
        tokens, prefix = self.transform(tokens, groups)
        return EncoderOutput(self.norm(tokens), prefix)

    def outputs(self, images: Float[Array, "B H W C"]) -> list[EncoderOutput]:
        """Return the tokens after each stage, (B, H/4, W/4, D) first; the last are normalised."""
        *inner, last = self._stage_outputs(self.embed(images))
        return [_without_prefix(tokens) for tokens in (*inner, self.norm(last))]

    def stage_options(self, stage: int) -> dict[str, Any]:
        """Return the keyword arguments of a stage's module that set its Stack."""
        rates = drop_path_rates(self.drop_path, self.depths)[stage]
        stack = dict(remat=self.remat, layers=self.layers, residual_dtype=self.residual_dtype)
        return dict(stack, depth=self.depths[stage], drop_path=rates)

    def _stage_outputs(self, x, groups=None):
        outputs = []
        for index, stage in enumerate(self.stages):
            if index:
                x = self.downsamples[index - 1](x)
            # The other backbones' stages take no groups.
            shared = () if groups is None else (groups.upsample(2 ** (STAGES - 1 - index)),)
            x = stage(x, *shared)
            outputs.append(x)
        return outputs

    def layer_group(self, path: str) -> int:
        """Return the group of a parameter for layer-wise learning rates, as in published fine-tuning.

        0 is the stem, then one group per block. A downsampling has the group of the block before it plus
        `downsample_offset`; everything after the blocks has the last group.

        Args:
          path: of a parameter of this module, joined by "/".
        """
        name, *rest = path.split("/")
        prefix, _, index = name.partition("_")
        if prefix == "stem":
            return 0
        if prefix == "downsamples":
            return sum(self.depths[: int(index) + 1]) + self.downsample_offset
        if prefix == "stages" and rest[0] == "blocks":
            return sum(self.depths[: int(index)]) + 1 + int(rest[1])
        return self.num_blocks + 1


def _without_prefix(tokens):
    """Return a grid (B, h, w, D) as an EncoderOutput."""
    return EncoderOutput(tokens, jnp.zeros((len(tokens), 0, tokens.shape[-1]), tokens.dtype))
