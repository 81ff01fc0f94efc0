"""CMT: convolutions between attention with shortened keys and values, and batch norms.

Source: the published `mim_cmt_pretrain.py` of FastMIM and `cmt.py` of CMT (arXiv 2107.06263).
Grids are (B, h, w, D), and not square where the images are not.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from fastmim_jax.models.convolution import BatchNorm, Conv, DepthwiseConv, fan_out_normal
from fastmim_jax.models.layers import Dense, PatchEmbed, layer_norm, patchify
from fastmim_jax.models.pyramid import STAGES, Pyramid
from fastmim_jax.models.stack import Stack, residual

REDUCTIONS = (8, 4, 2, 1)  # cells along a side that make one key, stage by stage
PATCH_EPSILON = 1e-5  # of the norms after patch embeddings


def gelu(x):
    """The exact GELU."""
    return nn.gelu(x, approximate=False)


def patches(size, width, dtype, name):
    """A size x size convolution without overlap; of size 1, a linear layer of every cell."""
    return PatchEmbed(size, width, dtype, fan_out_normal(), nn.initializers.zeros, name=name)


class Halving(nn.Module):
    """2 x 2 cells become one: (B, h, w, C) -> (B, h/2, w/2, width), normalised."""

    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        x = patches(2, self.width, self.dtype, name="patch")(x)
        return layer_norm(PATCH_EPSILON, self.dtype, name="norm")(x)


class Stem(nn.Module):
    """Three convolutions at half the resolution, then a halving: (B, H, W, C) -> (B, H/4, W/4, cells).

    width: of the convolutions. cells: width of the first stage.
    """

    width: int
    cells: int
    norm_groups: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        for index, stride in enumerate((2, 1, 1), 1):
            x = gelu(Conv(self.width, 3, stride, self.dtype, name=f"conv{index}")(x))
            x = BatchNorm(self.norm_groups, dtype=self.dtype, name=f"norm{index}")(x)
        return Halving(self.cells, self.dtype, name="halving")(x)


class DepthwisePatches(nn.Module):
    """A size x size convolution of every channel by itself, without overlap: (B, h, w, D) -> smaller."""

    size: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        width = x.shape[-1]
        kernel = self.param("kernel", fan_out_normal(), (self.size, self.size, 1, width))
        bias = self.param("bias", nn.initializers.zeros, (width,)).astype(self.dtype)
        cells = patchify(x.astype(self.dtype), self.size)
        cells = cells.reshape(*cells.shape[:-1], self.size**2, width)
        return (cells * kernel.reshape(-1, width).astype(self.dtype)).sum(-2) + bias


class ReducedAttention(nn.Module):
    """Attention from every cell of (B, h, w, D) to the cells of a grid that is `reduction` coarser."""

    heads: int
    reduction: int
    norm_groups: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, bias):
        """bias (1, heads, h*w, h*w / reduction^2), added to the scores -> (B, h, w, D)."""
        coarse = x
        if self.reduction > 1:
            coarse = DepthwisePatches(self.reduction, self.dtype, name="reduce")(x)
            coarse = BatchNorm(self.norm_groups, dtype=self.dtype, name="reduce_norm")(coarse)
        query, key, value = (
            self._heads(Dense(x.shape[-1], self.dtype, name=name)(cells))
            for name, cells in (("q", x), ("k", coarse), ("v", coarse))
        )
        attended = jax.nn.dot_product_attention(query, key, value, bias).reshape(x.shape)
        return Dense(x.shape[-1], self.dtype, name="proj")(attended)

    def _heads(self, x):
        batch, width = x.shape[0], x.shape[-1]
        return x.reshape(batch, -1, self.heads, width // self.heads)


class ConvMLP(nn.Module):
    """D -> ratio * D -> D for every cell, and a residual depthwise convolution in the wide middle."""

    ratio: float = 4.0
    norm_groups: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        width = x.shape[-1]
        x = self._norm(gelu(patches(1, int(width * self.ratio), self.dtype, name="fc1")(x)), "norm1")
        x = self._norm(gelu(x + DepthwiseConv(dtype=self.dtype, name="conv")(x)), "norm2")
        return self._norm(patches(1, width, self.dtype, name="fc2")(x), "norm3")

    def _norm(self, x, name):
        return BatchNorm(self.norm_groups, dtype=self.dtype, name=name)(x)


class CMTBlock(nn.Module):
    """x + convolution(x), then x + attention(norm(x)), then x + MLP(norm(x)), on a grid (B, h, w, D).

    The call takes the grid, the `bias` of ReducedAttention, and factors of the last two, see `residual`.
    """

    heads: int
    reduction: int
    mlp_ratio: float = 4.0
    norm_groups: int = 1
    epsilon: float = 1e-6
    dtype: Any = jnp.float32

    branches = 2  # that drop path may drop; as published, the convolution is none

    @nn.compact
    def __call__(self, x, bias, *, keep=(None, None)):
        common = dict(norm_groups=self.norm_groups, dtype=self.dtype)
        x = x + DepthwiseConv(dtype=self.dtype, name="local")(x)
        y = layer_norm(self.epsilon, self.dtype, name="norm1")(x)
        y = ReducedAttention(self.heads, self.reduction, **common, name="attn")(y, bias)
        x = residual(x, y, keep[0])
        y = layer_norm(self.epsilon, self.dtype, name="norm2")(x)
        return residual(x, ConvMLP(self.mlp_ratio, **common, name="mlp")(y), keep[1])


class CMTStage(nn.Module):
    """Blocks on one grid, with one bias per head and pair of cells that they share.

    The bias is as large as the grid, so its shape follows the images: `relative_position` is
    (heads, h, w, h / reduction, w / reduction), of the cell that asks and of the cell that is asked.
    """

    depth: int
    block: Mapping
    remat: str = "none"
    layers: str = "unrolled"
    drop_path: tuple[float, ...] | None = None

    @nn.compact
    def __call__(self, x):
        heads, reduction = self.block["heads"], self.block["reduction"]
        rows, columns = x.shape[1:3]
        shape = (heads, rows, columns, rows // reduction, columns // reduction)
        position = self.param("relative_position", nn.initializers.normal(1.0), shape)
        bias = position.reshape(1, heads, rows * columns, -1)
        how = self.remat, self.layers, self.drop_path
        return Stack(CMTBlock, self.depth, self.block, *how, name="blocks")(x, bias)


class CMT(Pyramid):
    """CMT; the defaults are CMT-S.

    Its parameters fit images of one size only, as the positions of CMTStage are of the grid's.

    Attributes:
      stem_width: of the three convolutions before the first stage.
      widths, depths, heads: of each stage.
      norm_groups: parts of the batch with statistics of their own, see BatchNorm.
      epsilon: of the layer norms in blocks and of the last; those after patch embeddings have 1e-5.
    """

    stem_width: int = 32
    widths: tuple[int, ...] = (64, 128, 256, 512)
    depths: tuple[int, ...] = (3, 3, 16, 3)
    heads: tuple[int, ...] = (1, 2, 4, 8)
    mlp_ratio: float = 4.0
    norm_groups: int = 1
    epsilon: float = 1e-6
    dtype: Any = jnp.float32
    remat: str = "none"
    layers: str = "unrolled"

    downsample_offset = 1
    pooling = "wide_pool"

    def setup(self):
        common = dict(norm_groups=self.norm_groups, dtype=self.dtype)
        self.stem = Stem(self.stem_width, self.widths[0], **common)
        self.downsamples = [Halving(width, self.dtype) for width in self.widths[1:]]
        block = dict(common, mlp_ratio=self.mlp_ratio, epsilon=self.epsilon)
        self.stages = [
            CMTStage(
                block=dict(block, heads=self.heads[stage], reduction=REDUCTIONS[stage]),
                **self.stage_options(stage),
            )
            for stage in range(STAGES)
        ]
        self.norm = layer_norm(self.epsilon, self.dtype, name="norm")

    def layer_group(self, path):
        """As Pyramid's; the stem's halving and a stage's positions go with the stage's first block."""
        name, part = path.split("/")[:2]
        if name == "stem" and part == "halving":
            return 1
        if part == "relative_position":
            return sum(self.depths[: int(name.removeprefix("stages_"))]) + 1
        return super().layer_group(path)
