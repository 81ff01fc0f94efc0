"""Swin transformer: attention inside windows that are shifted in every other block.

Source: the published `mim_swin_pretrain.py` of FastMIM, itself Microsoft's Swin (arXiv 2103.14030).
Window sizes, grids and shifts are (rows, columns) pairs, so that images need not be square.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from fastmim_jax.errors import UserError
from fastmim_jax.models.layers import MLP, Dense, PatchEmbed, Stack, layer_norm, torch_uniform
from fastmim_jax.models.pyramid import STAGES, Pyramid

LARGEST_CHOSEN, SMALLEST_CHOSEN = 16, 3  # side of a window that is chosen from the image's size


def choose_window(side):
    """The window's side for `side` cells in the last stage: image size / 32, as published.

    Beyond 16 it is the largest divisor up to that, and tiny images get 4, as all their cells do not make
    a window otherwise.

    Raises:
      UserError: no divisor makes a window.
    """
    window = max(size for size in range(1, LARGEST_CHOSEN + 1) if side % size == 0)
    if window < SMALLEST_CHOSEN and side >= SMALLEST_CHOSEN:
        raise UserError(f"no window divides {side} cells: choose other image sides, or a window that does")
    return window if window >= SMALLEST_CHOSEN else 4


def split_windows(x, window):
    """(B, h, w, ...) -> (B, windows, cells of a window, ...), both in row-major order."""
    (rows, columns), (batch, height, width, *rest) = window, x.shape
    x = x.reshape(batch, height // rows, rows, width // columns, columns, *rest)
    return x.swapaxes(2, 3).reshape(batch, -1, rows * columns, *rest)


def join_windows(x, window, grid):
    """The inverse of `split_windows` for a grid (h, w)."""
    (rows, columns), (height, width), rest = window, grid, x.shape[3:]
    x = x.reshape(-1, height // rows, width // columns, rows, columns, *rest)
    return x.swapaxes(2, 3).reshape(-1, height, width, *rest)


def shift_mask(grid, window, shift):
    """Which cells may attend to which in a grid that was rolled by `shift`: (windows, N, N) bool.

    Cells that the roll brought together from opposite edges may not.
    """

    def regions(size, window, shift):
        region = np.zeros(size, int)
        if shift:
            region[size - window :], region[size - shift :] = 1, 2
        return region

    rows, columns = (regions(*axis) for axis in zip(grid, window, shift, strict=True))
    labels = split_windows((3 * rows[:, None] + columns)[None], window)[0]
    return labels[:, :, None] == labels[:, None, :]


def relative_index(window):
    """Where in a (2h-1, 2w-1) table the bias of a pair of cells stands: two (N, N) arrays."""
    rows, columns = (axis.ravel() for axis in np.indices(window))
    return (
        rows[:, None] - rows[None, :] + window[0] - 1,
        columns[:, None] - columns[None, :] + window[1] - 1,
    )


class WindowAttention(nn.Module):
    """Self-attention inside windows, with a learned bias per head and pair of relative positions."""

    heads: int
    window: tuple[int, int]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, mask=None):
        """(B, windows, N, D) -> the same shape.

        mask: bool, True where attention may go; (windows, N, N), or one that broadcasts to it.
        """
        batch, count, cells, width = x.shape
        sides = [2 * side - 1 for side in self.window]
        table = self.param(
            "relative_position_bias_table", nn.initializers.normal(0.02), (*sides, self.heads)
        )
        bias = jnp.moveaxis(table[relative_index(self.window)], -1, 0)[None]  # (1, heads, N, N)
        if mask is not None:
            bias = jnp.where(mask[:, None], bias, jnp.finfo(jnp.float32).min)
        qkv = Dense(3 * width, self.dtype, name="qkv")(x)
        query, key, value = jnp.moveaxis(qkv.reshape(batch, count, cells, 3, self.heads, -1), 3, 0)
        x = jax.vmap(jax.nn.dot_product_attention, (0, 0, 0, None))(query, key, value, bias)
        return Dense(width, self.dtype, name="proj")(x.reshape(batch, count, cells, width))


class SwinBlock(nn.Module):
    """Pre-norm block on a grid (B, h, w, D): attention in windows rolled by `shift`, then an MLP."""

    heads: int
    window: tuple[int, int]
    shift: tuple[int, int] = (0, 0)
    mlp_ratio: float = 4.0
    epsilon: float = 1e-5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        grid, shifted = x.shape[1:3], any(self.shift)
        y = layer_norm(self.epsilon, self.dtype, name="norm1")(x)
        if shifted:
            y = jnp.roll(y, [-step for step in self.shift], axis=(1, 2))
        mask = shift_mask(grid, self.window, self.shift) if shifted else None
        attention = WindowAttention(self.heads, self.window, self.dtype, name="attn")
        y = join_windows(attention(split_windows(y, self.window), mask), self.window, grid)
        if shifted:
            y = jnp.roll(y, self.shift, axis=(1, 2))
        x = x + y
        y = layer_norm(self.epsilon, self.dtype, name="norm2")(x)
        return x + MLP(self.mlp_ratio, self.dtype, name="mlp")(y)


class SwinStage(nn.Module):
    """Blocks on one grid, every second of them shifted by half a window.

    coarsening: cells along a side here for one in the last stage, to choose the window if none is given.
    A window that is larger than the grid becomes the grid, without a shift.
    """

    depth: int
    heads: int
    window: int | tuple[int, int] | None
    coarsening: int
    block: dict
    remat: str = "none"
    layers: str = "unrolled"

    @nn.compact
    def __call__(self, x):
        grid = x.shape[1:3]
        window = self.window or tuple(choose_window(side // self.coarsening) for side in grid)
        window = (window, window) if isinstance(window, int) else window
        fitted = tuple(min(*sides) for sides in zip(window, grid, strict=True))
        if any(side % part for side, part in zip(grid, fitted, strict=True)):
            raise UserError(
                f"windows of {window[0]} x {window[1]} cells do not fit a grid of {grid[0]} x {grid[1]}: "
                "set a window that divides it, or none to have one chosen"
            )
        shift = tuple(part // 2 if part < side else 0 for side, part in zip(grid, fitted, strict=True))
        plain = dict(self.block, heads=self.heads, window=fitted)
        kinds = (plain, dict(plain, shift=shift)) if any(shift) else plain
        return Stack(SwinBlock, self.depth, kinds, self.remat, self.layers, name="blocks")(x)


class PatchMerging(nn.Module):
    """Halves a grid: (B, h, w, D) -> (B, h/2, w/2, 2D), from each 2 x 2 cells, column by column."""

    epsilon: float = 1e-5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        batch, rows, columns, width = x.shape
        x = x.reshape(batch, rows // 2, 2, columns // 2, 2, width)
        x = x.transpose(0, 1, 3, 4, 2, 5).reshape(batch, rows // 2, columns // 2, 4 * width)
        x = layer_norm(self.epsilon, self.dtype, name="norm")(x)
        return Dense(2 * width, self.dtype, use_bias=False, name="reduction")(x)


class NormedPatches(nn.Module):
    """Patch embedding and a norm; (B, H, W, C) -> (B, h, w, width)."""

    patch_size: int
    width: int
    epsilon: float = 1e-5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images):
        values = self.patch_size**2 * images.shape[-1]
        init = dict(kernel_init=torch_uniform(values))
        x = PatchEmbed(self.patch_size, self.width, self.dtype, **init, name="patch")(images)
        return layer_norm(self.epsilon, self.dtype, name="norm")(x)


class Swin(Pyramid):
    """Swin transformer.

    Attributes:
      width: of the first stage; it doubles in each.
      heads: of each stage.
      window: side of the windows in cells, or (rows, columns); None chooses image size / 32, as published.
    """

    width: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window: int | tuple[int, int] | None = None
    mlp_ratio: float = 4.0
    epsilon: float = 1e-5
    dtype: Any = jnp.float32
    remat: str = "none"
    layers: str = "unrolled"

    def setup(self):
        common = dict(epsilon=self.epsilon, dtype=self.dtype)
        self.stem = NormedPatches(4, self.width, **common)
        self.downsamples = [PatchMerging(**common) for _ in range(STAGES - 1)]
        self.stages = [
            SwinStage(
                depth=self.depths[stage],
                heads=self.heads[stage],
                window=self.window,
                coarsening=2 ** (STAGES - 1 - stage),
                block=dict(common, mlp_ratio=self.mlp_ratio),
                remat=self.remat,
                layers=self.layers,
            )
            for stage in range(STAGES)
        ]
        self.norm = layer_norm(self.epsilon, self.dtype, name="norm")
