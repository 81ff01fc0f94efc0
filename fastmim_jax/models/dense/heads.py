"""Heads of semantic segmentation: UPerNet, semantic FPN, and the auxiliary FCN.

Sources: `UPerHead`, `FPN`, `FPNHead` and `FCNHead` of mmsegmentation 0.28, which the published fine-tuning
of FastMIM, Swin and BEiT uses (arXiv 1807.10221, 1901.02446). All resizing has `align_corners=False`.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float

from fastmim_jax.models.convolution import Conv
from fastmim_jax.models.dense.layers import (
    ConvNormReLU,
    PixelClassifier,
    adaptive_pool,
    resize_bilinear,
)
from fastmim_jax.models.layers import upsample_nearest
from fastmim_jax.models.typing import Array

POOL_CELLS = (1, 2, 3, 6)  # along a side, of UPerNet's pyramid pooling

Grids = Sequence[Float[Array, "B _h _w _D"]]


class UPerNet(nn.Module):
    """UPerNet: pyramid pooling of the last grid, a feature pyramid, and a fusion of all its levels.

    channels: of every level.
    """

    classes: int
    channels: int = 512
    dropout: float = 0.1
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, grids: Grids) -> Float[Array, "B h w {self.classes}"]:
        """Return float32 logits on the first, finest of the grids."""
        levels = [self._conv(1, f"lateral_{i}")(grid) for i, grid in enumerate(grids[:-1])]
        levels.append(self._pyramid_pooling(grids[-1]))
        for i in reversed(range(len(levels) - 1)):
            levels[i] = levels[i] + resize_bilinear(levels[i + 1], _side(levels[i]))
        smooth = [self._conv(3, f"smooth_{i}")(level) for i, level in enumerate(levels[:-1])]
        outputs = [resize_bilinear(x, _side(levels[0])) for x in (*smooth, levels[-1])]
        fused = self._conv(3, "fusion")(jnp.concatenate(outputs, -1))
        return PixelClassifier(self.classes, self.dropout, name="classifier")(fused)

    def _pyramid_pooling(self, x):
        pooled = [
            resize_bilinear(self._conv(1, f"pool_{i}")(adaptive_pool(x, cells)), _side(x))
            for i, cells in enumerate(POOL_CELLS)
        ]
        return self._conv(3, "bottleneck")(jnp.concatenate([x, *pooled], -1))

    def _conv(self, size, name):
        return ConvNormReLU(self.channels, size, self.dtype, name=name)


class SemanticFPN(nn.Module):
    """Semantic FPN, lighter than UPerNet: a feature pyramid whose levels are convolved, doubled and added.

    channels: of the pyramid; the convolutions after it have half as many, as published (256 and 128).
    """

    classes: int
    channels: int = 256
    dropout: float = 0.1
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, grids: Grids) -> Float[Array, "B h w {self.classes}"]:
        """Return float32 logits on the first, finest of the grids, each half as fine as the one before."""
        levels = [self._conv(1, f"lateral_{i}")(grid) for i, grid in enumerate(grids)]
        for i in reversed(range(len(levels) - 1)):
            rows, columns = _side(levels[i])
            levels[i] = levels[i] + upsample_nearest(levels[i + 1], 2)[:, :rows, :columns]
        scaled = [self._scaled(level, i, _side(levels[0])) for i, level in enumerate(levels)]
        total = sum(scaled[1:], start=scaled[0])
        return PixelClassifier(self.classes, self.dropout, name="classifier")(total)

    def _scaled(self, x, level, size):
        x = self._conv(3, f"smooth_{level}")(x)
        for step in range(max(1, level)):
            x = ConvNormReLU(self.channels // 2, 3, self.dtype, name=f"scale_{level}_{step}")(x)
            x = resize_bilinear(x, tuple(2 * side for side in _side(x))) if level else x
        return resize_bilinear(x, size)

    def _conv(self, size, name):
        init = nn.initializers.xavier_uniform()
        return Conv(self.channels, size, dtype=self.dtype, kernel_init=init, name=name)


class FCN(nn.Module):
    """The auxiliary head: a convolution with batch norm, and a classifier."""

    classes: int
    channels: int = 256
    dropout: float = 0.1
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, grid: Float[Array, "B h w D"]) -> Float[Array, "B h w {self.classes}"]:
        """Return float32 logits on the grid."""
        x = ConvNormReLU(self.channels, dtype=self.dtype, name="conv")(grid)
        return PixelClassifier(self.classes, self.dropout, name="classifier")(x)


HEADS = {"upernet": UPerNet, "fpn": SemanticFPN}


def _side(x):
    return x.shape[1], x.shape[2]
