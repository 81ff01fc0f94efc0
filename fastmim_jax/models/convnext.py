"""ConvNeXt: depthwise 7 x 7 convolutions in place of attention (arXiv 2201.03545)."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from fastmim_jax.models.convolution import DepthwiseConv
from fastmim_jax.models.layers import MLP, PatchEmbed, layer_norm
from fastmim_jax.models.pyramid import STAGES, Pyramid
from fastmim_jax.models.stack import Stack, residual

KERNEL = 7  # cells along a side of a block's convolution

conv_init = nn.initializers.normal(0.02)  # as published; its truncation at 100 deviations does nothing


class Patches(nn.Module):
    """A patch embedding with a norm after it, or before it: (B, H, W, C) -> (B, h, w, width)."""

    patch_size: int
    width: int
    norm_first: bool = False
    epsilon: float = 1e-6
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        norm = layer_norm(self.epsilon, self.dtype, name="norm")
        init = dict(kernel_init=conv_init, bias_init=nn.initializers.zeros)
        patch = PatchEmbed(self.patch_size, self.width, self.dtype, **init, name="patch")
        return patch(norm(x)) if self.norm_first else norm(patch(x))


class ConvNeXtBlock(nn.Module):
    """x + gamma * MLP(norm(convolution(x))) on a grid (B, h, w, D); gamma starts at `layer_scale`.

    keep: a factor of what is added to x, see `residual`.
    """

    layer_scale: float = 1e-6
    epsilon: float = 1e-6
    dtype: Any = jnp.float32

    branches = 1  # that drop path may drop

    @nn.compact
    def __call__(self, x, *, keep=(None,)):
        y = DepthwiseConv(KERNEL, self.dtype, conv_init, name="conv")(x)
        y = layer_norm(self.epsilon, self.dtype, name="norm")(y)
        y = MLP(4.0, self.dtype, name="mlp")(y)
        gamma = self.param("gamma", nn.initializers.constant(self.layer_scale), (x.shape[-1],))
        return residual(x, gamma.astype(self.dtype) * y, keep[0])


class ConvNeXtStage(nn.Module):
    """Blocks on one grid (B, h, w, D)."""

    depth: int
    block: Mapping
    remat: str = "none"
    layers: str = "unrolled"
    drop_path: tuple[float, ...] | None = None

    @nn.compact
    def __call__(self, x):
        how = self.remat, self.layers, self.drop_path
        return Stack(ConvNeXtBlock, self.depth, self.block, *how, name="blocks")(x)


class ConvNeXt(Pyramid):
    """ConvNeXt; the defaults are ConvNeXt-T. Linear layers start as everywhere here, not at N(0, 0.02).

    Attributes:
      widths, depths: of each stage.
      layer_scale: what every block's result is multiplied by at the start.
    """

    widths: tuple[int, ...] = (96, 192, 384, 768)
    depths: tuple[int, ...] = (3, 3, 9, 3)
    layer_scale: float = 1e-6
    epsilon: float = 1e-6
    dtype: Any = jnp.float32
    remat: str = "none"
    layers: str = "unrolled"

    downsample_offset = 1  # the published fine-tuning puts it with the stage that it leads to
    pooling = "pool_norm"

    def setup(self):
        common = dict(epsilon=self.epsilon, dtype=self.dtype)
        self.stem = Patches(4, self.widths[0], **common)
        self.downsamples = [Patches(2, width, norm_first=True, **common) for width in self.widths[1:]]
        block = dict(common, layer_scale=self.layer_scale)
        self.stages = [ConvNeXtStage(block=block, **self.stage_options(stage)) for stage in range(STAGES)]
        self.norm = layer_norm(self.epsilon, self.dtype, name="norm")
