"""Layers of dense heads: bilinear resizing, adaptive pooling, and convolutions with batch norm.

Sources: PyTorch's `interpolate` and `AdaptiveAvgPool2d`, and mmcv's `ConvModule`.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Float

from fastmim_jax.models.convolution import BatchNorm, Conv
from fastmim_jax.models.heads import Dropout
from fastmim_jax.models.layers import torch_uniform, unpatchify
from fastmim_jax.models.linear import broadcast_parameter, matmul
from fastmim_jax.models.resample import Matrix, apply_matrices
from fastmim_jax.models.typing import Array


def resize_bilinear(x: Float[Array, "B h w D"], size: tuple[int, int]) -> Float[Array, "B _h _w D"]:
    """Return a grid resized bilinearly to (h, w): pixel centres are aligned, without antialiasing.

    As `interpolate(mode="bilinear", align_corners=False)`; computed in float32.
    """
    if x.shape[1:3] == tuple(size):
        return x
    shape = (x.shape[0], *size, x.shape[3])
    return jax.image.resize(x.astype(jnp.float32), shape, "bilinear", antialias=False).astype(x.dtype)


def adaptive_pool(x: Float[Array, "B h w D"], cells: int) -> Float[Array, "B {cells} {cells} D"]:
    """Return the means over cells x cells parts of a grid, which overlap where it does not divide."""
    matrices = (None, *(_parts(side, cells) for side in x.shape[1:3]), None)
    return apply_matrices(matrices, x).astype(x.dtype)


def _parts(side: int, cells: int) -> Matrix:
    """Return the (cells, side) matrix of PyTorch's adaptive average pooling along one axis."""
    matrix = np.zeros((cells, side))
    for cell in range(cells):
        start, end = cell * side // cells, -(-(cell + 1) * side // cells)
        matrix[cell, start:end] = 1 / (end - start)
    return matrix


class ConvNormReLU(nn.Module):
    """A convolution without bias, batch norm over the whole batch, and ReLU; mmcv's `ConvModule`."""

    width: int
    size: int = 3
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B h w D"]) -> Float[Array, "B h w {self.width}"]:
        x = Conv(self.width, self.size, dtype=self.dtype, use_bias=False, name="conv")(x)
        return nn.relu(BatchNorm(dtype=self.dtype, name="norm")(x))


class Upsample2(nn.Module):
    """A 2 x 2 transposed convolution with a stride of 2, which doubles a grid; PyTorch's initialisation."""

    width: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B h w D"]) -> Float[Array, "B 2*h 2*w {self.width}"]:
        width = x.shape[-1]
        init = torch_uniform(4 * self.width)  # PyTorch takes the outputs for the fan-in
        kernel = self.param("kernel", init, (2, 2, width, self.width))
        bias = self.param("bias", init, (self.width,))
        flat = kernel.transpose(2, 0, 1, 3).reshape(width, -1)
        y = unpatchify(matmul(x.astype(self.dtype), flat), 2)
        return y + broadcast_parameter(bias, y)


class PixelClassifier(nn.Module):
    """Dropout of whole channels, if there is a "dropout" generator, and a 1 x 1 convolution to logits."""

    classes: int
    dropout: float = 0.1

    @nn.compact
    def __call__(self, x: Float[Array, "B h w D"]) -> Float[Array, "B h w {self.classes}"]:
        x = x.astype(jnp.float32)
        if self.dropout and self.has_rng("dropout"):
            ones = jnp.ones((x.shape[0], x.shape[-1]))
            x = x * Dropout(self.dropout, name="dropout")(ones)[:, None, None]
        return Conv(self.classes, 1, kernel_init=nn.initializers.normal(0.01), name="conv")(x)
