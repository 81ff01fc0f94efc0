"""Pieces that every backbone shares: patches, positions, MLP, initialisers."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Shaped

from fastmim_jax.errors import UserError
from fastmim_jax.models.resample import bicubic

BATCH_AXES = ("data", "fsdp")  # the mesh axes over which the batch is split

AnyArray = Array | np.ndarray  # for functions of NumPy's arrays too

token_init = nn.initializers.normal(0.02)  # cls and mask tokens


class EncoderOutput(NamedTuple):
    """What a backbone makes of its tokens.

    tokens: the given shape with the last axis D, normalised: (B, h, w, D) for a grid.
    prefix: (B, K, D) tokens without a place in the image, such as cls; K is 0 for most backbones.
    """

    tokens: jax.Array
    prefix: jax.Array


def patchify(images: Shaped[AnyArray, "B H W C"], size: int) -> Shaped[AnyArray, "B h w P"]:
    """(B, H, W, C) -> (B, H/size, W/size, size*size*C), pixels in (row, column, channel) order."""
    batch, height, width, channels = images.shape
    x = images.reshape(batch, height // size, size, width // size, size, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(*x.shape[:2], width // size, -1)


def unpatchify(patches: Shaped[AnyArray, "B h w P"], size: int) -> Shaped[AnyArray, "B H W C"]:
    """The inverse of `patchify`: (B, h, w, size*size*C) -> (B, h*size, w*size, C)."""
    batch, rows, columns, values = patches.shape
    x = patches.reshape(batch, rows, columns, size, size, values // size**2)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * size, columns * size, -1)


def upsample_nearest(mask, factor):
    """(B, rows, columns) -> (B, rows*factor, columns*factor): every cell repeated."""
    return mask.repeat(factor, axis=1).repeat(factor, axis=2)


@jax.custom_vjp
def gather_rows(x, index, place):
    """Rows of each sample, (B, n, D), without the scattering that a gather's gradient is otherwise.

    Args:
      x: (B, N, D).
      index: (B, n), which row comes to each place, one place at most; a zero row where there is no such.
      place: (B, N), the inverse: the place that each row comes to; none such for those that come to none.
    """
    return _gather(x, index)


def _gather(x, index):
    """(B, N, D) at (B, n) -> (B, n, D); zeros where there is no such row."""
    count = x.shape[1]
    padded = jnp.pad(x, ((0, 0), (0, 1), (0, 0)))
    index = jnp.where((index >= 0) & (index < count), index, count)
    return jnp.take_along_axis(padded, index[..., None], axis=1)


def _take_rows_forward(x, index, place):
    return _gather(x, index), place


def _take_rows_backward(place, gradient):
    return _gather(gradient, place), None, None


gather_rows.defvjp(_take_rows_forward, _take_rows_backward)


def sincos_positions(rows, columns, width):
    """Fixed 2-D sine-cosine table, (rows, columns, width) float32, as in MAE's `pos_embed.py`.

    The first half of the channels tells the column, the second half the row; each half holds the
    sines of width/4 frequencies 10000^(-4k/width) and then their cosines.
    """
    if width % 4:
        raise ValueError(f"sine-cosine positions need a width that is a multiple of 4, got {width}")
    frequencies = 10000.0 ** (-np.arange(width // 4, dtype=np.float64) / (width // 4))

    def table(count):
        angles = np.arange(count, dtype=np.float64)[:, None] * frequencies
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)

    by_column = np.broadcast_to(table(columns)[None], (rows, columns, width // 2))
    by_row = np.broadcast_to(table(rows)[:, None], (rows, columns, width // 2))
    return np.concatenate([by_column, by_row], axis=-1).astype(np.float32)


def resampled_positions(rows, columns, width, grid=None):
    """The sine-cosine table of `grid`, (h, w), resampled to (rows, columns, width) float32.

    So published fine-tuning takes it from pre-training to another image size (FastMIM's `pos_embed.py`).
    grid: None for (rows, columns) itself.
    """
    grid = grid or (rows, columns)
    table = sincos_positions(*grid, width)
    if tuple(grid) == (rows, columns):
        return table
    down, across = bicubic(grid[0], rows), bicubic(grid[1], columns)
    return np.einsum("yh,xw,hwd->yxd", down, across, table, optimize=True).astype(np.float32)


class NoPositions(nn.Module):
    """Leaves a grid (B, h, w, D) as it is, and what stands in front of it.

    grid: (h, w) for which the sine-cosine table is made, see `resampled_positions`.
    """

    grid: tuple[int, int] | None = None

    def __call__(self, x):
        return x

    def of_prefix(self, x):
        """(1, K, D) tokens without a place in the image."""
        return x


class FixedPositions(NoPositions):
    """Adds sine-cosine positions to a grid (B, h, w, D)."""

    def __call__(self, x):
        return x + resampled_positions(*x.shape[1:], self.grid).astype(x.dtype)


class LearnedPositions(NoPositions):
    """Adds a learned table to a grid (B, h, w, D) of one size; it begins as the sine-cosine one."""

    def __call__(self, x):
        init = lambda key, shape: jnp.asarray(resampled_positions(*shape, self.grid))  # noqa: E731
        return x + self._table("pos_embed", init, x.shape[1:]).astype(x.dtype)

    def of_prefix(self, x):
        """(1, K, D) tokens and what is learned for them, which begins at zero."""
        return x + self._table("pos_embed_cls", nn.initializers.zeros, x.shape[1:]).astype(x.dtype)

    @nn.compact
    def _table(self, name, init, shape):
        return self.param(name, init, shape)


POSITIONS = {"none": NoPositions, "fixed": FixedPositions, "learned": LearnedPositions}


def make_positions(name, grid=None):
    """A module of POSITIONS for the table of a grid, (h, w) or None, see `resampled_positions`.

    Raises:
      UserError: an unknown name, or a grid that is none.
    """
    if name not in POSITIONS:
        raise UserError(
            f"unknown positions '{name}': there is {', '.join(POSITIONS)}; type "
            "--config.method.backbone.positions=fixed"
        )
    if grid is not None and (not isinstance(grid, tuple) or len(grid) != 2 or min(grid) < 1):
        raise UserError(
            f"position_grid is {grid}, expected rows and columns of cells: type "
            "--config.model.backbone.position_grid='(14, 14)'"
        )
    return POSITIONS[name](grid)


def flat_xavier_uniform(key, shape, dtype=jnp.float32):
    """Xavier-uniform of a convolution kernel (kh, kw, in, out) seen as one matrix (kh*kw*in, out)."""
    bound = np.sqrt(6.0 / (np.prod(shape[:-1]) + shape[-1]))
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def torch_uniform(fan_in):
    """PyTorch's default for a convolution's kernel and bias: uniform within 1/sqrt(fan_in)."""

    def init(key, shape, dtype=jnp.float32):
        bound = fan_in**-0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class PatchEmbed(nn.Module):
    """Cuts (B, H, W, C) images or grids into patches and maps each to (B, h, w, width).

    kernel_init, bias_init: as MAE's by default; of None for the bias, PyTorch's own.
    """

    patch_size: int
    width: int
    dtype: Any = jnp.float32
    kernel_init: Any = flat_xavier_uniform
    bias_init: Any = None

    def __call__(self, images: Float[Array, "B H W C"]) -> Float[Array, "B h w {self.width}"]:
        return self.project(patchify(images, self.patch_size))

    @nn.compact
    def project(self, patches):
        """Patches (..., size * size * C), pixels in (row, column, channel) order -> (..., width)."""
        size, values = self.patch_size, patches.shape[-1]
        kernel = self.param("kernel", self.kernel_init, (size, size, values // size**2, self.width))
        bias = self.param("bias", self.bias_init or torch_uniform(values), (self.width,))
        rows = patches.reshape(-1, values).astype(self.dtype)
        rows = rows @ kernel.reshape(values, -1).astype(self.dtype)
        return (rows + bias.astype(self.dtype)).reshape(*patches.shape[:-1], self.width)


class MLP(nn.Module):
    """Two layers with an exact GELU between them: D -> ratio * D -> D."""

    ratio: float = 4.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        width = x.shape[-1]
        x = Dense(int(width * self.ratio), self.dtype, name="fc1")(x)
        # For the backward pass the GELU is computed again: to keep it would be most of a block's memory.
        return nn.remat(GELUDense)(width, self.dtype, name="fc2")(x)


class Dense(nn.Module):
    """A linear layer initialised as in every published MIM code: Xavier-uniform, zero bias.

    It multiplies matrices, not stacks of them: XLA's CPU backend computes the gradient of a kernel
    several times slower where two axes are summed over.
    """

    width: int
    dtype: Any = jnp.float32
    use_bias: bool = True

    @nn.compact
    def __call__(self, x):
        kernel = self.param("kernel", nn.initializers.xavier_uniform(), (x.shape[-1], self.width))
        rows = x.reshape(-1, x.shape[-1]).astype(self.dtype) @ kernel.astype(self.dtype)
        if self.use_bias:
            rows += self.param("bias", nn.initializers.zeros, (self.width,)).astype(self.dtype)
        return rows.reshape(*x.shape[:-1], self.width)


class GELUDense(Dense):
    """A linear layer on the exact GELU of its input."""

    def __call__(self, x):
        return super().__call__(nn.gelu(x, approximate=False))


def layer_norm(epsilon, dtype, name):
    """LayerNorm with float32 statistics and a two-pass variance."""
    return nn.LayerNorm(epsilon=epsilon, dtype=dtype, use_fast_variance=False, name=name)


def split_over_batch(x):
    """Says to the compiler that x is split along its batch, where a mesh is set; else nothing.

    Without it the partitioner may follow the sharding of a weight instead of gathering the weight.
    """
    axes = tuple(axis for axis in BATCH_AXES if axis in jax.sharding.get_abstract_mesh().axis_names)
    return jax.lax.with_sharding_constraint(x, PartitionSpec(axes)) if axes else x
