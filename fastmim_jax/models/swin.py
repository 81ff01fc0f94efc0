"""Swin transformer: attention inside windows that are shifted in every other block.

Source: the published `mim_swin_pretrain.py` of FastMIM, itself Microsoft's Swin (arXiv 2103.14030).
Window sizes, grids and shifts are (rows, columns) pairs, so that images need not be square.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from fastmim_jax.errors import UserError
from fastmim_jax.models.attention import relative_index
from fastmim_jax.models.layers import (
    MLP,
    Dense,
    PatchEmbed,
    layer_norm,
    make_positions,
    torch_uniform,
    upsample_nearest,
)
from fastmim_jax.models.pyramid import STAGES, Pyramid
from fastmim_jax.models.stack import Stack, residual

GATHERED_FROM = 100  # cells of a window from which attention apart is faster than under a mask
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


class AttentionGroups(NamedTuple):
    """Parts of images that are kept apart: cells of one see nothing of the others.

    labels: (B, h, w), which part a cell is in; integers or bools.
    members: of every part the row-major indices of its cells, (G, n) each; the B / G consecutive images of
      a group have the same. () if parts differ in size from image to image.
    """

    labels: jax.Array
    members: tuple[jax.Array, ...] = ()

    def refined(self, factor):
        """The same parts on a grid with factor x factor cells for one."""
        columns = self.labels.shape[2]
        inside = np.add.outer(np.arange(factor) * columns * factor, np.arange(factor)).ravel()

        def finer(index):
            row, column = index // columns, index % columns
            first = (row * columns * factor + column) * factor
            return (first[..., None] + inside).reshape(len(index), -1)

        return AttentionGroups(
            upsample_nearest(self.labels, factor), tuple(finer(index) for index in self.members)
        )


class WindowAttention(nn.Module):
    """Self-attention inside windows, with a learned bias per head and pair of relative positions."""

    heads: int
    window: tuple[int, int]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, mask=None, members=()):
        """(B, windows, N, D) -> the same shape.

        mask: bool, True where attention may go; (1 or B, windows, N, N).
        members: as of Parts, where there is a single window: attention is among those of each part.
        """
        batch, count, cells, width = x.shape
        sides = [2 * side - 1 for side in self.window]
        table = self.param(
            "relative_position_bias_table", nn.initializers.normal(0.02), (*sides, self.heads)
        )
        bias = jnp.moveaxis(table[relative_index(self.window)], -1, 0)  # (heads, N, N)
        qkv = Dense(3 * width, self.dtype, name="qkv")(x).reshape(*x.shape[:3], 3, self.heads, -1)
        x = attend_apart(qkv[:, 0], bias, members) if members else attend(qkv, bias, mask)
        return Dense(width, self.dtype, name="proj")(x.reshape(batch, count, cells, width))


def attend(qkv, bias, mask=None):
    """Attention inside windows.

    Args:
      qkv: (B, windows, N, 3, heads, width of a head).
      bias: (heads, N, N), added to the scores.
      mask: (1 or B, windows, N, N) bool, or None.

    Returns:
      (B, windows, N, heads, width of a head).
    """
    bias = bias[None]
    if mask is not None and len(mask) == 1:  # the same for all images: part of the bias
        bias, mask = jnp.where(mask[0][:, None], bias, jnp.finfo(jnp.float32).min), None

    def of_image(qkv, mask):
        query, key, value = jnp.moveaxis(qkv, 2, 0)
        return jax.nn.dot_product_attention(query, key, value, bias, mask)

    return jax.vmap(of_image)(qkv, None if mask is None else mask[:, :, None])


def attend_apart(qkv, bias, members):
    """Attention among the cells of each part: as under a mask, without the work that it throws away.

    Args:
      qkv: (B, N, 3, heads, width of a head).
      bias: (heads, N, N), added to the scores.
      members: as of Parts, all N cells in one of them.

    Returns:
      (B, N, heads, width of a head).
    """
    members = [index for index in members if index.shape[1]]
    grouped = qkv.reshape(len(members[0]), -1, *qkv.shape[1:])

    def of_group(qkv, index):
        query, key, value = jnp.moveaxis(qkv[:, index], 2, 0)
        near = bias[:, index[:, None], index[None, :]]
        return jax.nn.dot_product_attention(query, key, value, near[None])

    parts = [jax.vmap(of_group)(grouped, index) for index in members]
    places = jnp.argsort(jnp.concatenate(members, axis=1), axis=1)
    x = jax.vmap(lambda x, index: x[:, index])(jnp.concatenate(parts, axis=2), places)
    return x.reshape(*qkv.shape[:2], *qkv.shape[3:])


class SwinBlock(nn.Module):
    """Pre-norm block on a grid (B, h, w, D): attention in windows rolled by `shift`, then an MLP."""

    heads: int
    window: tuple[int, int]
    shift: tuple[int, int] = (0, 0)
    mlp_ratio: float = 4.0
    epsilon: float = 1e-5
    dtype: Any = jnp.float32

    branches = 2  # that drop path may drop

    @nn.compact
    def __call__(self, x, parts=None, *, keep=(None, None)):
        """parts: Parts of this grid, or None. keep: factors of what is added to x, see `residual`."""
        grid = x.shape[1:3]
        y = layer_norm(self.epsilon, self.dtype, name="norm1")(x)
        y = split_windows(roll(y, self.shift, -1), self.window)
        attention = WindowAttention(self.heads, self.window, self.dtype, name="attn")
        apart = parts is not None and parts.members and grid[0] * grid[1] >= GATHERED_FROM
        if apart and self.window == grid:
            y = attention(y, members=parts.members)
        else:
            y = attention(y, self._mask(grid, parts))
        x = residual(x, roll(join_windows(y, self.window, grid), self.shift, 1), keep[0])
        y = layer_norm(self.epsilon, self.dtype, name="norm2")(x)
        return residual(x, MLP(self.mlp_ratio, self.dtype, name="mlp")(y), keep[1])

    def _mask(self, grid, parts):
        """(1 or B, windows, N, N) bool, or None if every cell of a window may attend to every other."""
        mask = shift_mask(grid, self.window, self.shift)[None] if any(self.shift) else None
        if parts is None:
            return mask
        labels = split_windows(roll(parts.labels, self.shift, -1), self.window)
        same = labels[..., :, None] == labels[..., None, :]
        return same if mask is None else same & mask


def roll(x, shift, sign):
    """A grid (B, h, w, ...) rolled by sign * shift."""
    if not any(shift):
        return x
    return jnp.roll(x, [sign * step for step in shift], axis=(1, 2))


class SwinStage(nn.Module):
    """Blocks on one grid (B, h, w, D), every second of them shifted by half a window where `shifted`.

    choose: side of the grid -> side of the window, if none is given.
    A window that is larger than the grid becomes the grid, without a shift.
    """

    depth: int
    heads: int
    window: int | tuple[int, int] | None
    choose: Callable[[int], int]
    block: Mapping
    shifted: bool = True
    remat: str = "none"
    layers: str = "unrolled"
    drop_path: tuple[float, ...] | None = None

    @nn.compact
    def __call__(self, x, *parts):
        grid = x.shape[1:3]
        window = self.window or tuple(self.choose(side) for side in grid)
        window = (window, window) if isinstance(window, int) else window
        fitted = tuple(min(*sides) for sides in zip(window, grid, strict=True))
        if any(side % part for side, part in zip(grid, fitted, strict=True)):
            raise UserError(
                f"windows of {window[0]} x {window[1]} cells do not fit a grid of {grid[0]} x {grid[1]}: "
                "set a window that divides it, or none to have one chosen"
            )
        shift = tuple(part // 2 if part < side else 0 for side, part in zip(grid, fitted, strict=True))
        plain = dict(self.block, heads=self.heads, window=fitted)
        kinds = (plain, dict(plain, shift=shift)) if self.shifted and any(shift) else plain
        how = self.remat, self.layers, self.drop_path
        return Stack(SwinBlock, self.depth, kinds, *how, name="blocks")(x, *parts)


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


class WindowedBackbone(Pyramid):
    """What backbones of attention in windows share; `encode` can be given Parts of the last grid.

    Attributes:
      width: of the first stage; it doubles in each.
      heads: of each stage.
      positions: "none", or what `encode` adds to the cells of the first stage, after anything that is done
        to what `embed` gives: "fixed" sine-cosine ones, or "learned" (for images of one size).
      position_grid: as of ViT, in cells of the first stage.
    """

    width: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    mlp_ratio: float = 4.0
    epsilon: float = 1e-5
    dtype: Any = jnp.float32
    remat: str = "none"
    layers: str = "unrolled"
    positions: str = "none"
    position_grid: tuple[int, int] | None = None

    supports_groups = True

    def setup(self):
        common = dict(epsilon=self.epsilon, dtype=self.dtype)
        self.position = make_positions(self.positions, self.position_grid)
        self.stem = NormedPatches(4, self.width, **common)
        self.downsamples = [PatchMerging(**common) for _ in range(STAGES - 1)]
        self.stages = [
            SwinStage(
                heads=self.heads[stage],
                block=dict(common, mlp_ratio=self.mlp_ratio),
                **self.stage_options(stage),
                **self.window_options(stage),
            )
            for stage in range(STAGES)
        ]
        self.norm = layer_norm(self.epsilon, self.dtype, name="norm")

    def _grids(self, x, *parts):
        return super()._grids(self.position(x), *parts)


class Swin(WindowedBackbone):
    """Swin transformer.

    Attributes:
      window: side of the windows in cells, or (rows, columns); None chooses image size / 32, as published.
    """

    window: int | tuple[int, int] | None = None

    def window_options(self, stage):
        """What tells the windows of a stage, as keyword arguments."""
        coarsening = 2 ** (STAGES - 1 - stage)
        return dict(window=self.window, choose=lambda side: choose_window(side // coarsening))
