"""CMT: convolutions between attention to a coarser grid of keys and values, and batch norms.

Source: the published `mim_cmt_pretrain.py` of FastMIM and `cmt.py` of CMT (arXiv 2107.06263).
Grids are (B, h, w, D), and not square where the images are not.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float

from fastmim_jax.models.attention_kernels import xla_attention
from fastmim_jax.models.convolution import BatchNorm, Conv, DepthwiseConv, fan_out_normal
from fastmim_jax.models.gelu import gelu
from fastmim_jax.models.layers import PatchEmbed, PatchEmbedNorm, layer_norm, patchify
from fastmim_jax.models.linear import Dense
from fastmim_jax.models.pyramid import STAGES, Pyramid, PyramidStage
from fastmim_jax.models.stack import BranchScale, residual
from fastmim_jax.models.typing import Array

REDUCTIONS = (8, 4, 2, 1)  # spatial reduction ratio of keys and values, along one side, by stage


def conv_inits() -> dict[str, Any]:
    """Return the initialisers of convolutions without overlap, see `PatchEmbed`."""
    return dict(kernel_init=fan_out_normal(), bias_init=nn.initializers.zeros)


class Stem(nn.Module):
    """Three convolutions at half the resolution, then a downsampling to a quarter.

    conv_width: channels of the convolutions. width: of the output.
    """

    conv_width: int
    width: int
    norm_groups: int = 1
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H//4 W//4 {self.width}"]:
        for index, stride in enumerate((2, 1, 1), 1):
            x = gelu(Conv(self.conv_width, 3, stride, jnp.float32, name=f"conv{index}")(x))
            x = BatchNorm(self.norm_groups, dtype=self.dtype, name=f"norm{index}")(x)
        return PatchEmbedNorm(2, self.width, **conv_inits(), dtype=self.dtype, name="halving")(x)


class DepthwisePatchConv(nn.Module):
    """A size x size depthwise convolution without overlap: the grid shrinks by `size`."""

    size: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B h w D"]) -> Float[Array, "B h//{self.size} w//{self.size} D"]:
        width = x.shape[-1]
        kernel = self.param("kernel", fan_out_normal(), (self.size, self.size, 1, width))
        bias = self.param("bias", nn.initializers.zeros, (width,))
        cells = patchify(x.astype(jnp.float32), self.size)
        cells = cells.reshape(*cells.shape[:-1], self.size**2, width)
        return (cells * kernel.reshape(-1, width)).sum(-2) + bias


class LightweightAttention(nn.Module):
    """CMT's lightweight attention: from all cells to the cells of a grid that is `reduction` coarser."""

    heads: int
    reduction: int
    norm_groups: int = 1
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B h w D"], bias: Float[Array, "1 heads h*w h*w//{self.reduction}**2"]
    ) -> Float[Array, "B h w D"]:
        """Attend from all cells; the bias is added to the scores."""
        coarse = x
        if self.reduction > 1:
            coarse = DepthwisePatchConv(self.reduction, self.dtype, name="reduce")(x)
            coarse = BatchNorm(self.norm_groups, dtype=self.dtype, name="reduce_norm")(coarse)
        query, key, value = (
            self._split_heads(Dense(x.shape[-1], self.dtype, name=name)(cells))
            for name, cells in (("q", x), ("k", coarse), ("v", coarse))
        )
        attended = xla_attention(query, key, value, bias).reshape(x.shape)
        return Dense(x.shape[-1], self.dtype, name="proj")(attended)

    def _split_heads(self, x):
        batch, width = x.shape[0], x.shape[-1]
        return x.reshape(batch, -1, self.heads, width // self.heads)


class InvertedResidualFFN(nn.Module):
    """CMT's inverted residual FFN: D -> ratio * D -> D with a residual depthwise convolution inside."""

    ratio: float = 4.0
    norm_groups: int = 1
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B h w D"]) -> Float[Array, "B h w D"]:
        width = x.shape[-1]
        x = self._norm(gelu(self._linear(int(width * self.ratio), "fc1")(x)), "norm1")
        x = self._norm(gelu(x + DepthwiseConv(dtype=self.dtype, name="conv")(x)), "norm2")
        return self._norm(self._linear(width, "fc2")(x), "norm3")

    def _linear(self, width, name):
        """Return a 1 x 1 convolution."""
        return PatchEmbed(1, width, self.dtype, **conv_inits(), name=name)

    def _norm(self, x, name):
        return BatchNorm(self.norm_groups, dtype=self.dtype, name=name)(x)


class CMTBlock(nn.Module):
    """x + convolution(x), then x + attention(norm(x)), then x + FFN(norm(x))."""

    heads: int
    reduction: int
    mlp_ratio: float = 4.0
    norm_groups: int = 1
    epsilon: float = 1e-6
    dtype: DTypeLike = jnp.float32

    num_branches = 2  # residual branches under drop path; as published, the convolution is not one

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B h w D"],
        bias: Float[Array, "..."],
        *,
        scales: BranchScale = (None, None),
    ) -> Float[Array, "B h w D"]:
        """Apply the block; for the bias see `LightweightAttention`, for scales see `residual`."""
        common: dict[str, Any] = dict(norm_groups=self.norm_groups, dtype=self.dtype)
        x = x + DepthwiseConv(dtype=self.dtype, name="local")(x)
        y = layer_norm(self.epsilon, self.dtype, name="norm1")(x)
        y = LightweightAttention(self.heads, self.reduction, **common, name="attn")(y, bias)
        x = residual(x, y, scales[0])
        y = layer_norm(self.epsilon, self.dtype, name="norm2")(x)
        return residual(x, InvertedResidualFFN(self.mlp_ratio, **common, name="mlp")(y), scales[1])


class CMTStage(PyramidStage):
    """Blocks on one grid that share one bias per head and pair of cells.

    The bias is as large as the grid: `relative_position` is (heads, h, w, h / reduction, w / reduction), of
    query and key cells.
    """

    @nn.compact
    def __call__(self, x: Float[Array, "B h w D"]) -> Float[Array, "B h w D"]:
        heads, reduction = self.block["heads"], self.block["reduction"]
        rows, columns = x.shape[1:3]
        shape = (heads, rows, columns, rows // reduction, columns // reduction)
        position = self.param("relative_position", nn.initializers.normal(1.0), shape)
        bias = position.reshape(1, heads, rows * columns, -1)
        return self.stack(CMTBlock)(x, bias)


class CMT(Pyramid):
    """CMT; the defaults are CMT-S.

    Its parameters fit images of one size only: the bias of a CMTStage is as large as the grid.

    Attributes:
      stem_width: of the three convolutions before the first stage.
      widths, depths, heads: of each stage.
      norm_groups: groups of the batch with statistics of their own, see `BatchNorm`.
      epsilon: of the layer norms in blocks and of the last; those after patch embeddings have 1e-5.
    """

    stem_width: int = 32
    widths: tuple[int, ...] = (64, 128, 256, 512)
    depths: tuple[int, ...] = (3, 3, 16, 3)
    heads: tuple[int, ...] = (1, 2, 4, 8)
    mlp_ratio: float = 4.0
    norm_groups: int = 1
    epsilon: float = 1e-6

    family = "cmt"
    downsample_offset = 1
    pooling = "wide_pool"

    @property
    def stage_heads(self) -> tuple[int, ...]:
        """Attention heads of each stage."""
        return self.heads

    def setup(self):
        common = dict(norm_groups=self.norm_groups, dtype=self.dtype)
        self.stem = Stem(self.stem_width, self.widths[0], **common)
        self.downsamples = [
            PatchEmbedNorm(2, width, **conv_inits(), dtype=self.dtype) for width in self.widths[1:]
        ]
        block = dict(common, mlp_ratio=self.mlp_ratio, epsilon=self.epsilon)
        self.stages = [
            CMTStage(
                block=dict(block, heads=self.heads[stage], reduction=REDUCTIONS[stage]),
                **self.stage_options(stage),
            )
            for stage in range(STAGES)
        ]
        self.norm = layer_norm(self.epsilon, self.dtype, name="norm")

    def layer_group(self, path: str) -> int:
        """Return the group of `Pyramid.layer_group`.

        The stem's downsampling and a stage's relative positions go with the stage's first block.
        """
        name, part = path.split("/")[:2]
        if name == "stem" and part == "halving":
            return 1
        if part == "relative_position":
            return sum(self.depths[: int(name.removeprefix("stages_"))]) + 1
        return super().layer_group(path)


SIZES = {
    "ti": dict(stem_width=16, widths=(46, 92, 184, 368), depths=(2, 2, 10, 2), mlp_ratio=3.6),
    "xs": dict(stem_width=16, widths=(52, 104, 208, 416), depths=(3, 3, 12, 3), mlp_ratio=3.77),
    "s": dict(),
    "b": dict(stem_width=38, widths=(76, 152, 304, 608), depths=(4, 4, 20, 4)),
}
VARIANTS = {f"cmt_{size}": (CMT, sizes) for size, sizes in SIZES.items()}
