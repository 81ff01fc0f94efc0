"""PVT v2: attention to a coarser grid of keys, overlapping patches, convolutions inside the MLPs.

Source: FastMIM's `mim_pvtv2_pretrain.py`, itself the code of PVT v2 (arXiv 2106.13797).
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Float

from fastmim_jax.models.attention_kernels import xla_attention
from fastmim_jax.models.convolution import Conv, DepthwiseConv, fan_out_normal
from fastmim_jax.models.gelu import gelu
from fastmim_jax.models.layers import PatchEmbed, layer_norm
from fastmim_jax.models.linear import Dense, SplitDense
from fastmim_jax.models.pyramid import STAGES, Pyramid, PyramidStage
from fastmim_jax.models.stack import BranchScale, residual
from fastmim_jax.models.typing import Array

REDUCTIONS = (8, 4, 2, 1)  # spatial reduction ratio of keys and values, along one side, by stage
POOL_SIZE = 7  # side of the grid of keys in every stage with pooled attention
ATTENTIONS = ("reduced", "pooled")
EPSILON = 1e-5  # of the norms after patch embeddings and of the keys; the blocks' own is a field


def adaptive_pooling(source: int, target: int) -> Float[np.ndarray, "{target} {source}"]:
    """Return the matrix of an average pooling along one axis to any length, float32.

    As PyTorch's AdaptiveAvgPool: bin i is the mean from floor(i * source / target) up to, excluding,
    ceil((i + 1) * source / target). Bins overlap if the target does not divide the source.
    """
    edges = np.arange(target + 1) * source
    first, end = edges[:-1] // target, -(-edges[1:] // target)
    cells = np.arange(source)
    inside = (cells >= first[:, None]) & (cells < end[:, None])
    return (inside / inside.sum(1, keepdims=True)).astype(np.float32)


class SpatialReductionAttention(nn.Module):
    """Self-attention from all cells of a grid to the cells of a coarser grid.

    Attributes:
      attention: "reduced": keys by a convolution with size and stride `reduction`. "pooled": keys from
        7 x 7 averages of the grid, whatever its size, so that the cost is linear in it.
    """

    heads: int
    reduction: int
    attention: str = "reduced"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B h w D"]) -> Float[Array, "B h w D"]:
        batch, rows, columns, width = x.shape
        query = Dense(width, self.dtype, name="q")(x).reshape(batch, rows * columns, self.heads, -1)
        coarse = self._coarsen(x)
        split = SplitDense(2, width, self.dtype, name="kv")(coarse)
        key, value = (y.reshape(batch, -1, self.heads, width // self.heads) for y in split)
        x = xla_attention(query, key, value)
        return Dense(width, self.dtype, name="proj")(x.reshape(batch, rows, columns, width))

    def _coarsen(self, x):
        """Return the grid (B, h', w', D) from which keys and values are projected."""
        pooled = self.attention == "pooled"
        if pooled:
            row_matrix, column_matrix = (
                jnp.asarray(adaptive_pooling(side, POOL_SIZE), x.dtype) for side in x.shape[1:3]
            )
            x = jnp.einsum("ph,qw,bhwd->bpqd", row_matrix, column_matrix, x)
        elif self.reduction == 1:
            return x
        inits = dict(kernel_init=fan_out_normal(), bias_init=nn.initializers.zeros)
        x = PatchEmbed(1 if pooled else self.reduction, x.shape[-1], self.dtype, **inits, name="sr")(x)
        x = layer_norm(EPSILON, self.dtype, name="norm")(x)
        return gelu(x) if pooled else x


class ConvMLP(nn.Module):
    """MLP with a 3 x 3 depthwise convolution between its layers; D -> ratio * D -> D.

    relu: whether a ReLU follows the first layer, as with pooled attention.
    """

    ratio: float = 4.0
    relu: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B h w D"]) -> Float[Array, "B h w D"]:
        width = x.shape[-1]
        inner_width = int(width * self.ratio)
        x = Dense(inner_width, self.dtype, name="fc1")(x)
        x = nn.relu(x) if self.relu else x
        x = DepthwiseConv(dtype=self.dtype, kernel_init=fan_out_normal(inner_width), name="dwconv")(x)
        return Dense(width, self.dtype, name="fc2")(gelu(x))


class PVTBlock(nn.Module):
    """Pre-norm block: x + attention(norm(x)), then x + ConvMLP(norm(x))."""

    heads: int
    reduction: int
    attention: str = "reduced"
    mlp_ratio: float = 4.0
    epsilon: float = 1e-6
    dtype: DTypeLike = jnp.float32

    num_branches = 2  # residual branches under drop path

    @nn.compact
    def __call__(
        self, x: Float[Array, "B h w D"], *, scales: BranchScale = (None, None)
    ) -> Float[Array, "B h w D"]:
        """Apply the block; for scales see `residual`."""
        attention = SpatialReductionAttention(
            self.heads, self.reduction, self.attention, self.dtype, name="attn"
        )
        y = attention(layer_norm(self.epsilon, self.dtype, name="norm1")(x))
        x = residual(x, y, scales[0])
        y = layer_norm(self.epsilon, self.dtype, name="norm2")(x)
        y = ConvMLP(self.mlp_ratio, self.attention == "pooled", self.dtype, name="mlp")(y)
        return residual(x, y, scales[1])


class PVTStage(PyramidStage):
    """Blocks on one grid, and a norm after them."""

    @nn.compact
    def __call__(self, x: Float[Array, "B h w D"]) -> Float[Array, "B h w D"]:
        x = self.stack(PVTBlock)(x)
        return layer_norm(self.block["epsilon"], self.block["dtype"], name="norm")(x)


class OverlapPatchEmbed(nn.Module):
    """Patch embedding by a convolution larger than its stride, and a norm."""

    width: int
    size: int
    stride: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w {self.width}"]:
        x = Conv(self.width, self.size, self.stride, self.dtype, name="patch")(x)
        return layer_norm(EPSILON, self.dtype, name="norm")(x)


class PVTv2(Pyramid):
    """PVT v2; the defaults are PVT v2-B2.

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

    family = "pvt_v2"
    pooling = "pool"

    @property
    def stage_heads(self) -> tuple[int, ...]:
        """Attention heads of each stage."""
        return self.heads

    def setup(self):
        if self.attention not in ATTENTIONS:
            raise ValueError(f"unknown attention '{self.attention}'; choose from: {', '.join(ATTENTIONS)}")
        self.stem = OverlapPatchEmbed(self.widths[0], 7, 4, self.dtype)
        self.downsamples = [OverlapPatchEmbed(width, 3, 2, self.dtype) for width in self.widths[1:]]
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

    def norm(self, x: Float[Array, "B h w D"]) -> Float[Array, "B h w D"]:
        """Return x: every stage ends with its own norm."""
        return x

    def layer_group(self, path: str) -> int:
        """Return the group of `Pyramid.layer_group`; a stage's norm goes with the next downsampling."""
        name, part, *_ = path.split("/")
        if name.startswith("stages") and part == "norm":
            through = int(name[-1]) + 1
            return sum(self.depths[:through]) + (through == STAGES)
        return super().layer_group(path)


SIZES = {
    "b0": dict(widths=(32, 64, 160, 256), depths=(2, 2, 2, 2)),
    "b1": dict(depths=(2, 2, 2, 2)),
    "b2": dict(),
    "b2_linear": dict(attention="pooled"),
    "b3": dict(depths=(3, 4, 18, 3)),
    "b4": dict(depths=(3, 8, 27, 3)),
    "b5": dict(depths=(3, 6, 40, 3), mlp_ratios=(4, 4, 4, 4)),
}
VARIANTS = {f"pvt_v2_{size}": (PVTv2, sizes) for size, sizes in SIZES.items()}
