"""ConvNeXt: depthwise 7 x 7 convolutions in place of attention (arXiv 2201.03545)."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float

from fastmim_jax.models.convolution import DepthwiseConv
from fastmim_jax.models.layers import MLP, PatchEmbedNorm, layer_norm
from fastmim_jax.models.linear import broadcast_parameter
from fastmim_jax.models.pyramid import STAGES, Pyramid, PyramidStage
from fastmim_jax.models.stack import BranchScale, residual
from fastmim_jax.models.typing import Array

KERNEL = 7  # side of a block's convolution, in cells

conv_init = nn.initializers.normal(0.02)  # as published; its truncation at 100 deviations has no effect


class ConvNeXtBlock(nn.Module):
    """x + gamma * MLP(norm(convolution(x))); gamma is initialised as `layer_scale`."""

    layer_scale: float = 1e-6
    epsilon: float = 1e-6
    dtype: DTypeLike = jnp.float32

    num_branches = 1  # residual branches under drop path

    @nn.compact
    def __call__(
        self, x: Float[Array, "B h w D"], *, scales: BranchScale = (None,)
    ) -> Float[Array, "B h w D"]:
        """Apply the block; for scales see `residual`."""
        y = DepthwiseConv(KERNEL, self.dtype, conv_init, name="conv")(x)
        y = layer_norm(self.epsilon, self.dtype, name="norm")(y)
        y = MLP(4.0, self.dtype, name="mlp")(y)
        gamma = self.param("gamma", nn.initializers.constant(self.layer_scale), (x.shape[-1],))
        return residual(x, broadcast_parameter(gamma, y) * y, scales[0])


class ConvNeXtStage(PyramidStage):
    """Blocks on one grid."""

    @nn.compact
    def __call__(self, x: Float[Array, "B h w D"]) -> Float[Array, "B h w D"]:
        return self.stack(ConvNeXtBlock)(x)


class ConvNeXt(Pyramid):
    """ConvNeXt; the defaults are ConvNeXt-T.

    Linear layers are initialised Xavier-uniform as in all backbones here, not as N(0, 0.02).

    Attributes:
      widths, depths: of each stage.
      layer_scale: initial factor of every block's branch.
    """

    widths: tuple[int, ...] = (96, 192, 384, 768)
    depths: tuple[int, ...] = (3, 3, 9, 3)
    layer_scale: float = 1e-6
    epsilon: float = 1e-6

    family = "convnext"
    official_stage_norms = True
    downsample_offset = 1  # in the group of the next stage's first block, as in published fine-tuning
    pooling = "pool_norm"

    def setup(self):
        common = dict(epsilon=self.epsilon, dtype=self.dtype)
        embed = dict(common, kernel_init=conv_init, bias_init=nn.initializers.zeros)
        self.stem = PatchEmbedNorm(4, self.widths[0], **embed)
        self.downsamples = [PatchEmbedNorm(2, width, norm_first=True, **embed) for width in self.widths[1:]]
        block = dict(common, layer_scale=self.layer_scale)
        self.stages = [ConvNeXtStage(block=block, **self.stage_options(stage)) for stage in range(STAGES)]
        self.norm = layer_norm(self.epsilon, self.dtype, name="norm")


SIZES = {
    "t": dict(),
    "s": dict(depths=(3, 3, 27, 3)),
    "b": dict(widths=(128, 256, 512, 1024), depths=(3, 3, 27, 3)),
    "l": dict(widths=(192, 384, 768, 1536), depths=(3, 3, 27, 3)),
}
VARIANTS = {f"convnext_{size}": (ConvNeXt, sizes) for size, sizes in SIZES.items()}
