"""Semantic segmentation: a backbone, its grids at four scales, a head, and an auxiliary head for training.

Source: `mmseg-v0.28` of FastMIM, whose `vit_beit.py` resizes the grids of a ViT (from BEiT).
"""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float

from fastmim_jax.models.base import Backbone
from fastmim_jax.models.convolution import BatchNorm
from fastmim_jax.models.dense.heads import FCN, HEADS, Grids
from fastmim_jax.models.dense.layers import Upsample2
from fastmim_jax.models.gelu import gelu
from fastmim_jax.models.layers import layer_norm
from fastmim_jax.models.typing import Array

SCALES = 4  # grids that a head takes
FINEST = 4  # pixels per cell of the finest grid
MOST_UPSAMPLING = 4  # cells per token of a ViT, along one side


class SegmentationLogits(NamedTuple):
    """Float32 logits (B, h, w, K), on the finest grid of the head and on the grid of the auxiliary head.

    auxiliary: None without an auxiliary head.
    """

    main: Array
    auxiliary: Array | None


class ViTNeck(nn.Module):
    """Grids of four scales from four layers of a ViT, by transposed convolutions and max-pooling.

    Patches of 16 pixels have x 4, x 2, x 1 and x 1/2 as many cells along a side; smaller ones start lower.
    """

    patch_size: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, grids: Grids) -> Grids:
        first = min(MOST_UPSAMPLING, 2 ** max(0, round(math.log2(self.patch_size / FINEST))))
        return [self._rescale(grid, first / 2**index, index) for index, grid in enumerate(grids)]

    def _rescale(self, x, factor, index):
        width = x.shape[-1]
        if factor == 4:
            x = Upsample2(width, self.dtype, name=f"up_{index}_0")(x)
            x = gelu(BatchNorm(dtype=self.dtype, name=f"norm_{index}")(x))
            return Upsample2(width, self.dtype, name=f"up_{index}_1")(x)
        if factor == 2:
            return Upsample2(width, self.dtype, name=f"up_{index}")(x)
        window = tuple(min(side, round(1 / factor)) for side in x.shape[1:3])
        return nn.max_pool(x, window, window) if max(window) > 1 else x


class Segmenter(nn.Module):
    """A backbone with heads of segmentation.

    Attributes:
      encoder: the backbone.
      classes: number of classes.
      head: a key of HEADS.
      channels: of the head.
      layers: numbers, from 1, of the four layers of a ViT whose outputs the head takes; (): the ends of the
        quarters. The last layer's is normalised. A pyramid gives its four stages.
      auxiliary_channels: of the auxiliary head; 0: none.
      auxiliary_input: number, from 1, of the grid that the auxiliary head takes.
      dropout: of channels before the classifiers.
    """

    encoder: Backbone
    classes: int
    head: str = "upernet"
    channels: int = 512
    layers: tuple[int, ...] = ()
    auxiliary_channels: int = 256
    auxiliary_input: int = 3
    dropout: float = 0.1

    @nn.compact
    def __call__(self, images: Float[Array, "B H W C"]) -> SegmentationLogits:
        """Return the logits of normalised images."""
        grids = self.grids(images)
        options: dict[str, Any] = dict(dropout=self.dropout, dtype=self.encoder.dtype)
        # "decoder" is the pre-training's: its parameters are no start for a head.
        main = HEADS[self.head](self.classes, self.channels, **options, name="segmentation")(grids)
        if not self.auxiliary_channels:
            return SegmentationLogits(main, None)
        auxiliary = FCN(self.classes, self.auxiliary_channels, **options, name="auxiliary")
        return SegmentationLogits(main, auxiliary(grids[self.auxiliary_input - 1]))

    def grids(self, images: Float[Array, "B H W C"]) -> Grids:
        """Return four grids of features, the finest first."""
        encoder = self.encoder
        if len(encoder.stage_widths) == 1:
            outputs = encoder.outputs(images)
            chosen = [outputs[number - 1].tokens for number in self.layers or quarter_layers(len(outputs))]
            return ViTNeck(encoder.stride, encoder.dtype, name="neck")(chosen)
        *inner, last = encoder.features(images)
        if encoder.official_stage_norms:
            inner = [
                layer_norm(encoder.epsilon, encoder.dtype, name=f"stage_norm_{i}")(grid)
                for i, grid in enumerate(inner)
            ]
        return [*inner, last]


def quarter_layers(depth: int) -> tuple[int, ...]:
    """Return the numbers, from 1, of the last layer of each quarter of `depth` layers."""
    return tuple(-(-depth * quarter // SCALES) for quarter in range(1, SCALES + 1))
