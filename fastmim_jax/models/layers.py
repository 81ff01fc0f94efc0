"""Layers and array functions that backbones, decoders and methods share."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.initializers import Initializer
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Int, Shaped

from fastmim_jax.models.device import batch_axes
from fastmim_jax.models.gelu import gelu
from fastmim_jax.models.linear import Dense, broadcast_parameter, matmul
from fastmim_jax.models.norm import LayerNorm
from fastmim_jax.models.typing import Array

token_init = nn.initializers.normal(0.02)  # cls and mask tokens


def patchify(images: Shaped[Array, "B H W C"], size: int) -> Shaped[Array, "B h w P"]:
    """Cut images into size x size patches; their values are in (row, column, channel) order."""
    batch, height, width, channels = images.shape
    x = images.reshape(batch, height // size, size, width // size, size, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(*x.shape[:2], width // size, -1)


def unpatchify(patches: Shaped[Array, "B h w P"], size: int) -> Shaped[Array, "B H W C"]:
    """Return the images of size x size patches, the inverse of `patchify`."""
    batch, rows, columns, values = patches.shape
    x = patches.reshape(batch, rows, columns, size, size, values // size**2)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * size, columns * size, -1)


def upsample_nearest(
    grid: Shaped[Array, "B h w *rest"], factor: int
) -> Shaped[Array, "B {factor}*h {factor}*w *rest"]:
    """Repeat every cell of a grid factor x factor times."""
    return grid.repeat(factor, axis=1).repeat(factor, axis=2)


@jax.custom_vjp
def gather_rows(
    x: Shaped[Array, "B N D"], index: Int[Array, "B n"], inverse_index: Int[Array, "B N"]
) -> Shaped[Array, "B n D"]:
    """Gather rows of each sample; the gradient gathers too, where `take_along_axis` would scatter.

    Args:
      index: row of x for each output row; out of range: a row of zeros. No row is gathered twice.
      inverse_index: output row of each row of x, for the custom VJP; out of range: row dropped.
    """
    return _gather(x, index)


def _gather(x, index):
    count = x.shape[1]
    padded = jnp.pad(x, ((0, 0), (0, 1), (0, 0)))
    index = jnp.where((index >= 0) & (index < count), index, count)
    return jnp.take_along_axis(padded, index[..., None], axis=1)


def _gather_rows_forward(x, index, inverse_index):
    return _gather(x, index), inverse_index


def _gather_rows_backward(inverse_index, gradient):
    return _gather(gradient, inverse_index), None, None


gather_rows.defvjp(_gather_rows_forward, _gather_rows_backward)


def restore_grid(
    visible: Float[Array, "B n D"],
    mask_token: Float[Array, "..."],
    mask: Bool[Array, "B h w"],
    ids_restore: Int[Array, "B N"],
    ids_keep: Int[Array, "B n"],
) -> Float[Array, "B h w D"]:
    """Return the grid of visible tokens, with the mask token where the mask is True.

    Args:
      ids_restore: place of every cell of the grid among the visible tokens; out of range: masked.
      ids_keep: row-major indices of the visible tokens.
    """
    grid = gather_rows(visible, ids_restore, ids_keep).reshape(*mask.shape, visible.shape[-1])
    return jnp.where(mask[..., None], broadcast_parameter(mask_token, grid), grid)


def mean_pool(grid: Float[Array, "B h w D"], side: int) -> Float[Array, "B h//{side} w//{side} D"]:
    """Return the means over squares of side x side cells."""
    batch, rows, columns, width = grid.shape
    return grid.reshape(batch, rows // side, side, columns // side, side, width).mean((2, 4))


def flat_xavier_uniform(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Array:
    """Initialise a convolution kernel (kh, kw, in, out) Xavier-uniform as one matrix (kh*kw*in, out)."""
    bound = np.sqrt(6.0 / (np.prod(shape[:-1]) + shape[-1]))
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def torch_uniform(fan_in: int) -> Initializer:
    """Return PyTorch's default initialiser of kernels and biases: uniform within 1/sqrt(fan_in)."""

    def init(key, shape, dtype=jnp.float32):
        bound = fan_in**-0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class PatchEmbed(nn.Module):
    """Linear embedding of patches of images or grids.

    kernel_init, bias_init: by default as in MAE; None: PyTorch's default.
    """

    patch_size: int
    width: int
    dtype: DTypeLike = jnp.float32
    kernel_init: Initializer | None = flat_xavier_uniform
    bias_init: Initializer | None = None

    def __call__(self, images: Float[Array, "B H W C"]) -> Float[Array, "B h w {self.width}"]:
        return self.project(patchify(images, self.patch_size))

    @nn.compact
    def project(self, patches: Float[Array, "*batch P"]) -> Float[Array, "*batch {self.width}"]:
        """Embed patches whose values are in (row, column, channel) order."""
        size, values = self.patch_size, patches.shape[-1]
        kernel_init, bias_init = (x or torch_uniform(values) for x in (self.kernel_init, self.bias_init))
        kernel = self.param("kernel", kernel_init, (size, size, values // size**2, self.width))
        bias = self.param("bias", bias_init, (self.width,))
        y = matmul(patches.astype(self.dtype), kernel.reshape(values, -1))
        return y + broadcast_parameter(bias, y)


class PatchEmbedNorm(nn.Module):
    """Patch embedding with a layer norm after it, or before it (`norm_first`)."""

    patch_size: int
    width: int
    kernel_init: Initializer | None = flat_xavier_uniform
    bias_init: Initializer | None = None
    norm_first: bool = False
    epsilon: float = 1e-5
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w {self.width}"]:
        inits = self.kernel_init, self.bias_init
        patch = PatchEmbed(self.patch_size, self.width, self.dtype, *inits, name="patch")
        norm = layer_norm(self.epsilon, self.dtype, name="norm")
        return patch(norm(x)) if self.norm_first else norm(patch(x))


class MLP(nn.Module):
    """Two linear layers with an exact GELU between them; D -> ratio * D -> D."""

    ratio: float = 4.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        width = x.shape[-1]
        x = gelu(Dense(int(width * self.ratio), self.dtype, name="fc1")(x))
        return Dense(width, self.dtype, name="fc2")(x)


def layer_norm(epsilon: float, dtype: DTypeLike, name: str) -> LayerNorm:
    """Return a LayerNorm with float32 statistics and a two-pass variance."""
    return LayerNorm(epsilon, dtype, name=name)


def constrain_batch_sharding(x: Shaped[Array, " B *rest"]) -> Shaped[Array, " B *rest"]:
    """Constrain x to be split along its batch axis, if a mesh is set.

    Without the constraint the partitioner may follow the sharding of a weight instead of gathering it.
    """
    axes = batch_axes()
    return jax.lax.with_sharding_constraint(x, PartitionSpec(axes)) if axes else x
