"""PVT v2: attention to a coarsened grid of keys, overlapping patches, convolutions inside the MLPs.

Source: FastMIM's `mim_pvtv2_pretrain.py`, itself the code of PVT v2 (arXiv 2106.13797).
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from fastmim_jax.errors import UserError
from fastmim_jax.models.convolution import Conv, DepthwiseConv, fan_out_normal
from fastmim_jax.models.layers import Dense, PatchEmbed, layer_norm
from fastmim_jax.models.pyramid import STAGES, Pyramid
from fastmim_jax.models.stack import Stack, residual

REDUCTIONS = (8, 4, 2, 1)  # cells along a side that become one key, by stage
POOLED = 7  # keys along a side in every stage, where they are pooled
ATTENTIONS = ("reduced", "pooled")
EPSILON = 1e-5  # of the norms after a patch embedding and of the keys, whatever the blocks' is


def pooling(source, target):
    """Average pooling to any length, a (target, source) float32 matrix.

    As PyTorch's AdaptiveAvgPool: bin i is the mean of floor(i * source / target) up to, and without,
    ceil((i + 1) * source / target). Bins overlap where the lengths do not divide each other.
    """
    edges = np.arange(target + 1) * source
    first, end = edges[:-1] // target, -(-edges[1:] // target)
    cells = np.arange(source)
    inside = (cells >= first[:, None]) & (cells < end[:, None])
    return (inside / inside.sum(1, keepdims=True)).astype(np.float32)


class PVTAttention(nn.Module):
    """Self-attention of all cells of a grid to the cells of a coarser one.

    Attributes:
      attention: "reduced": keys are cells of reduction x reduction, by a convolution of that stride.
        "pooled": 7 x 7 averages of the grid, whatever its size, so that the cost is linear in it.
    """

    heads: int
    reduction: int
    attention: str = "reduced"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        """(B, h, w, D) -> the same shape."""
        batch, rows, columns, width = x.shape
        query = Dense(width, self.dtype, name="q")(x).reshape(batch, rows * columns, self.heads, -1)
        coarse = self._coarsen(x)
        key_value = Dense(2 * width, self.dtype, name="kv")(coarse)
        key, value = jnp.moveaxis(key_value.reshape(batch, -1, 2, self.heads, width // self.heads), 2, 0)
        x = jax.nn.dot_product_attention(query, key, value)
        return Dense(width, self.dtype, name="proj")(x.reshape(batch, rows, columns, width))

    def _coarsen(self, x):
        """(B, h, w, D) -> what the keys and values are made of, (B, h', w', D)."""
        pooled = self.attention == "pooled"
        if pooled:
            down, across = (jnp.asarray(pooling(side, POOLED), x.dtype) for side in x.shape[1:3])
            x = jnp.einsum("ph,qw,bhwd->bpqd", down, across, x)
        elif self.reduction == 1:
            return x
        inits = dict(kernel_init=fan_out_normal(), bias_init=nn.initializers.zeros)
        x = PatchEmbed(1 if pooled else self.reduction, x.shape[-1], self.dtype, **inits, name="sr")(x)
        x = layer_norm(EPSILON, self.dtype, name="norm")(x)
        return nn.gelu(x, approximate=False) if pooled else x


class ConvolutionalMLP(nn.Module):
    """An MLP that sees the eight cells around each: (B, h, w, D) -> the same shape.

    rectified: a ReLU after the first layer, which goes with pooled attention.
    """

    ratio: float = 4.0
    rectified: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        width = x.shape[-1]
        hidden = int(width * self.ratio)
        x = Dense(hidden, self.dtype, name="fc1")(x)
        x = nn.relu(x) if self.rectified else x
        x = DepthwiseConv(dtype=self.dtype, kernel_init=fan_out_normal(hidden), name="dwconv")(x)
        return Dense(width, self.dtype, name="fc2")(nn.gelu(x, approximate=False))


class PVTBlock(nn.Module):
    """Pre-norm block on a grid (B, h, w, D): attention, then an MLP with a convolution.

    keep: a factor of what either adds to x, see `residual`.
    """

    heads: int
    reduction: int
    attention: str = "reduced"
    mlp_ratio: float = 4.0
    epsilon: float = 1e-6
    dtype: Any = jnp.float32

    branches = 2  # that drop path may drop

    @nn.compact
    def __call__(self, x, *, keep=(None, None)):
        y = layer_norm(self.epsilon, self.dtype, name="norm1")(x)
        y = PVTAttention(self.heads, self.reduction, self.attention, self.dtype, name="attn")(y)
        x = residual(x, y, keep[0])
        y = layer_norm(self.epsilon, self.dtype, name="norm2")(x)
        rectified = self.attention == "pooled"
        y = ConvolutionalMLP(self.mlp_ratio, rectified, self.dtype, name="mlp")(y)
        return residual(x, y, keep[1])


class PVTStage(nn.Module):
    """Blocks on one grid, and a norm after them."""

    depth: int
    block: Mapping
    remat: str = "none"
    layers: str = "unrolled"
    drop_path: tuple[float, ...] | None = None

    @nn.compact
    def __call__(self, x):
        how = self.remat, self.layers, self.drop_path
        x = Stack(PVTBlock, self.depth, self.block, *how, name="blocks")(x)
        return layer_norm(self.block["epsilon"], self.block["dtype"], name="norm")(x)


class OverlappingPatches(nn.Module):
    """A convolution wider than its stride, and a norm: (B, H, W, C) -> (B, H/stride, W/stride, width)."""

    width: int
    size: int
    stride: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        x = Conv(self.width, self.size, self.stride, self.dtype, name="patch")(x)
        return layer_norm(EPSILON, self.dtype, name="norm")(x)


class PVTv2(Pyramid):
    """PVT v2.

    Attributes:
      widths, depths, heads, mlp_ratios: one number per stage.
      attention: "reduced", or "pooled" for the linear variant ("Li" in the paper).
      epsilon: of the norms in and after the blocks.
    """

    widths: tuple[int, ...] = (64, 128, 320, 512)
    depths: tuple[int, ...] = (3, 4, 6, 3)
    heads: tuple[int, ...] = (1, 2, 5, 8)
    mlp_ratios: tuple[float, ...] = (8, 8, 4, 4)
    attention: str = "reduced"
    epsilon: float = 1e-6
    dtype: Any = jnp.float32
    remat: str = "none"
    layers: str = "unrolled"

    pooling = "pool"

    def setup(self):
        if self.attention not in ATTENTIONS:
            raise UserError(f"unknown attention '{self.attention}': there is {', '.join(ATTENTIONS)}")
        self.stem = OverlappingPatches(self.widths[0], 7, 4, self.dtype)
        self.downsamples = [OverlappingPatches(width, 3, 2, self.dtype) for width in self.widths[1:]]
        self.stages = [
            PVTStage(
                block=dict(
                    heads=self.heads[stage],
                    reduction=REDUCTIONS[stage],
                    attention=self.attention,
                    mlp_ratio=self.mlp_ratios[stage],
                    epsilon=self.epsilon,
                    dtype=self.dtype,
                ),
                **self.stage_options(stage),
            )
            for stage in range(STAGES)
        ]

    def norm(self, x):
        """x as it is: every stage ends with a norm of its own."""
        return x

    def layer_group(self, path):
        """As any pyramid's, but the norm of a stage goes with the downsampling after it."""
        name, part, *_ = path.split("/")
        if name.startswith("stages") and part == "norm":
            through = int(name[-1]) + 1
            return sum(self.depths[:through]) + (through == STAGES)
        return super().layer_group(path)
