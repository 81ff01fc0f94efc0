"""Pieces that every backbone shares: patches, positions, MLP, stacks of blocks, initialisers."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

BATCH_AXES = ("data", "fsdp")  # the mesh axes over which the batch is split
REMAT_POLICIES = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}
LAYER_MODES = ("unrolled", "scanned")

token_init = nn.initializers.normal(0.02)  # cls and mask tokens


class Encoded(NamedTuple):
    """What a backbone makes of its tokens.

    tokens: the given shape with the last axis D, normalised: (B, h, w, D) for a grid.
    prefix: (B, K, D) tokens without a place in the image, such as cls; K is 0 for most backbones.
    """

    tokens: jax.Array
    prefix: jax.Array


def patchify(images, size):
    """(B, H, W, C) -> (B, H/size, W/size, size*size*C), pixels in (row, column, channel) order."""
    batch, height, width, channels = images.shape
    x = images.reshape(batch, height // size, size, width // size, size, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(*x.shape[:2], width // size, -1)


def unpatchify(patches, size):
    """The inverse of `patchify`: (B, h, w, size*size*C) -> (B, h*size, w*size, C)."""
    batch, rows, columns, values = patches.shape
    x = patches.reshape(batch, rows, columns, size, size, values // size**2)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * size, columns * size, -1)


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


def flat_xavier_uniform(key, shape, dtype=jnp.float32):
    """Xavier-uniform of a convolution kernel (kh, kw, in, out) seen as one matrix (kh*kw*in, out)."""
    bound = np.sqrt(6.0 / (np.prod(shape[:-1]) + shape[-1]))
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def torch_bias(fan_in):
    """PyTorch's default bias of a convolution: uniform within 1/sqrt(fan_in)."""

    def init(key, shape, dtype=jnp.float32):
        bound = fan_in**-0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class PatchEmbed(nn.Module):
    """Cuts (B, H, W, C) images into patches and maps each to (B, h, w, width)."""

    patch_size: int
    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images):
        size, channels = self.patch_size, images.shape[-1]
        values = size * size * channels
        kernel = self.param("kernel", flat_xavier_uniform, (size, size, channels, self.width))
        bias = self.param("bias", torch_bias(values), (self.width,))
        patches = patchify(images, size).astype(self.dtype)
        rows = patches.reshape(-1, values) @ kernel.reshape(values, -1).astype(self.dtype)
        return (rows + bias.astype(self.dtype)).reshape(*patches.shape[:-1], self.width)


class MLP(nn.Module):
    """Two layers with an exact GELU between them: D -> ratio * D -> D."""

    ratio: float = 4.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        width = x.shape[-1]
        x = Dense(int(width * self.ratio), self.dtype, name="fc1")(x)
        return Dense(width, self.dtype, name="fc2")(nn.gelu(x, approximate=False))


class Dense(nn.Module):
    """A linear layer initialised as in every published MIM code: Xavier-uniform, zero bias.

    It multiplies matrices, not stacks of them: XLA's CPU backend computes the gradient of a kernel
    several times slower where two axes are summed over.
    """

    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        kernel = self.param("kernel", nn.initializers.xavier_uniform(), (x.shape[-1], self.width))
        bias = self.param("bias", nn.initializers.zeros, (self.width,))
        rows = x.reshape(-1, x.shape[-1]).astype(self.dtype) @ kernel.astype(self.dtype)
        return (rows + bias.astype(self.dtype)).reshape(*x.shape[:-1], self.width)


def layer_norm(epsilon, dtype, name):
    """LayerNorm with float32 statistics and a two-pass variance."""
    return nn.LayerNorm(epsilon=epsilon, dtype=dtype, use_fast_variance=False, name=name)


def split_over_batch(x):
    """Says to the compiler that x is split along its batch, where a mesh is set; else nothing.

    Without it the partitioner may follow the sharding of a weight instead of gathering the weight.
    """
    axes = tuple(axis for axis in BATCH_AXES if axis in jax.sharding.get_abstract_mesh().axis_names)
    return jax.lax.with_sharding_constraint(x, PartitionSpec(axes)) if axes else x


class Stack(nn.Module):
    """`depth` blocks of one kind, one after another; parameters under the names "0", "1", ...

    Attributes:
      block: the class of a block, a module from (B, N, D) to (B, N, D).
      options: its keyword arguments.
      remat: "none", "full" (keep only block inputs) or "dots" (keep matrix products too).
      layers: "unrolled", or "scanned": one compiled block for all, quicker to compile. Parameters,
        their names and their initial values are the same in both.
    """

    block: type[nn.Module]
    depth: int
    options: dict[str, Any]
    remat: str = "none"
    layers: str = "unrolled"

    def __call__(self, x):
        """(B, N, D) -> (B, N, D)."""
        return self._run(x, keep=lambda y: None)[0]

    def outputs(self, x):
        """(B, N, D) -> what each block gives, a list of `depth` arrays (B, N, D)."""
        return list(self._run(x, keep=lambda y: y)[1])

    @nn.compact
    def _run(self, x, keep):
        if self.layers == "scanned" and self.depth and not self.is_initializing():
            return self._scan(x, keep)
        block, kept = self.block, []
        if self.remat != "none":
            block = nn.remat(block, policy=REMAT_POLICIES[self.remat])
        for index in range(self.depth):
            x = block(**self.options, name=str(index))(split_over_batch(x))
            kept.append(keep(x))
        return x, kept

    def _scan(self, x, keep):
        params = [self.variables["params"][str(index)] for index in range(self.depth)]
        block = self.block(**self.options, parent=None)

        def body(x, params):
            x = block.apply({"params": params}, split_over_batch(x))
            return x, keep(x)

        if self.remat != "none":
            body = jax.checkpoint(body, policy=REMAT_POLICIES[self.remat], prevent_cse=False)
        return jax.lax.scan(body, x, jax.tree.map(lambda *leaves: jnp.stack(leaves), *params))
