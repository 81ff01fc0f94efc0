"""Swin transformer: attention inside windows that are shifted in every other block.

Source: the published `mim_swin_pretrain.py` of FastMIM, itself Microsoft's Swin (arXiv 2103.14030).
Window sizes, grids and shifts are (rows, columns) pairs, so that images need not be square.
"""

from collections.abc import Callable, Mapping
from typing import Any, cast

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Shaped

from fastmim_jax.models.attention_kernels import describe_kernel
from fastmim_jax.models.base import AttentionGroups
from fastmim_jax.models.layers import MLP, PatchEmbedNorm, layer_norm
from fastmim_jax.models.linear import Dense
from fastmim_jax.models.positions import make_positions
from fastmim_jax.models.pyramid import STAGES, Pyramid
from fastmim_jax.models.stack import BranchScale, Stack, residual
from fastmim_jax.models.typing import Array
from fastmim_jax.models.window_attention import WindowAttention

MAX_WINDOW, MIN_WINDOW = 16, 3  # side of a window that is chosen by the image size


def choose_window(side: int) -> int:
    """Return the published window side, image size / 32, for `side` cells in the last stage.

    Beyond 16 it is the largest divisor up to 16. Below 3 it is 4: the window of a tiny image would
    otherwise not cover its grid.

    Raises:
      ValueError: no divisor makes a window.
    """
    window = max(size for size in range(1, MAX_WINDOW + 1) if side % size == 0)
    if window < MIN_WINDOW and side >= MIN_WINDOW:
        raise ValueError(
            f"no window divides {side} cells, expected a side with a divisor from {MIN_WINDOW} to "
            f"{MAX_WINDOW}"
        )
    return window if window >= MIN_WINDOW else 4


def window_partition(
    x: Shaped[Array, "B h w *rest"], window: tuple[int, int]
) -> Shaped[Array, "B n N *rest"]:
    """Return the n windows of a grid with their N cells, both in row-major order."""
    (rows, columns), (batch, height, width, *rest) = window, x.shape
    x = x.reshape(batch, height // rows, rows, width // columns, columns, *rest)
    return x.swapaxes(2, 3).reshape(batch, -1, rows * columns, *rest)


def window_reverse(
    x: Shaped[Array, "B n N *rest"], window: tuple[int, int], grid: tuple[int, int]
) -> Shaped[Array, "B {grid[0]} {grid[1]} *rest"]:
    """Return the grid of windows, the inverse of `window_partition`."""
    (rows, columns), (height, width), rest = window, grid, x.shape[3:]
    x = x.reshape(-1, height // rows, width // columns, rows, columns, *rest)
    return x.swapaxes(2, 3).reshape(-1, height, width, *rest)


def shift_mask(
    grid: tuple[int, int], window: tuple[int, int], shift: tuple[int, int]
) -> Bool[np.ndarray, "n N N"]:
    """Return the attention mask of the windows of a grid that was rolled by `shift`; True: may attend.

    Cells that the roll brought together from opposite edges may not attend to each other.
    """

    def regions(size, window, shift):
        region = np.zeros(size, int)
        if shift:
            region[size - window :], region[size - shift :] = 1, 2
        return region

    rows, columns = (regions(*axis) for axis in zip(grid, window, shift, strict=True))
    labels = np.asarray(window_partition((3 * rows[:, None] + columns)[None], window)[0])
    return labels[:, :, None] == labels[:, None, :]


class SwinBlock(nn.Module):
    """Pre-norm block: attention in windows of the grid rolled by `shift`, then an MLP."""

    heads: int
    window: tuple[int, int]
    shift: tuple[int, int] = (0, 0)
    mlp_ratio: float = 4.0
    epsilon: float = 1e-5
    kernel: str = "auto"
    dtype: DTypeLike = jnp.float32

    num_branches = 2  # residual branches under drop path

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B h w D"],
        groups: AttentionGroups | None = None,
        *,
        scales: BranchScale = (None, None),
    ) -> Float[Array, "B h w D"]:
        """Apply the block; groups are those of this grid, for scales see `residual`."""
        grid = (x.shape[1], x.shape[2])
        x, y = layer_norm(self.epsilon, self.dtype, name="norm1").after_residual(x)
        y = window_partition(roll(y, self.shift, -1), self.window)
        mask = shift_mask(grid, self.window, self.shift) if any(self.shift) else None
        labels, indices = None, cast("tuple[Array, ...]", ())
        if groups is not None:
            labels = window_partition(roll(groups.labels, self.shift, -1), self.window)
            indices = groups.indices if self.window == grid else ()
        attention = WindowAttention(self.heads, self.window, self.kernel, self.dtype, name="attn")
        y = attention(y, mask, labels, indices)
        x = residual(x, roll(window_reverse(y, self.window, grid), self.shift, 1), scales[0])
        x, y = layer_norm(self.epsilon, self.dtype, name="norm2").after_residual(x)
        return residual(x, MLP(self.mlp_ratio, self.dtype, name="mlp")(y), scales[1])


def roll(
    x: Shaped[Array, "B h w *rest"], shift: tuple[int, int], sign: int
) -> Shaped[Array, "B h w *rest"]:
    """Return a grid rolled by sign * shift."""
    if not any(shift):
        return x
    return jnp.roll(x, [sign * step for step in shift], axis=(1, 2))


class SwinStage(nn.Module):
    """Blocks on one grid; if `shifted`, every second one is shifted by half a window.

    A window that is larger than the grid is reduced to the grid, without a shift.

    Attributes:
      window: side of the windows, or (rows, columns); None: `default_window` of each side of the grid.
      block: keyword arguments of the blocks.
    """

    depth: int
    heads: int
    window: int | tuple[int, int] | None
    default_window: Callable[[int], int]
    block: Mapping[str, Any]
    shifted: bool = True
    remat: str = "none"
    layers: str = "unrolled"
    drop_path: tuple[float, ...] | None = None
    residual_dtype: DTypeLike | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "B h w D"], groups: AttentionGroups | None = None
    ) -> Float[Array, "B h w D"]:
        grid = x.shape[1:3]
        window = self.window or tuple(self.default_window(side) for side in grid)
        window = (window, window) if isinstance(window, int) else window
        fitted = tuple(min(*sides) for sides in zip(window, grid, strict=True))
        if any(side % part for side, part in zip(grid, fitted, strict=True)):
            raise ValueError(
                f"windows of {window[0]} x {window[1]} cells do not fit a grid of {grid[0]} x {grid[1]}: "
                "expected a window that divides it, or none to have one chosen"
            )
        shift = tuple(part // 2 if part < side else 0 for side, part in zip(grid, fitted, strict=True))
        plain = dict(self.block, heads=self.heads, window=fitted)
        options = (plain, dict(plain, shift=shift)) if self.shifted and any(shift) else plain
        stack = self.remat, self.layers, self.drop_path, self.residual_dtype
        shared = () if groups is None else (groups,)
        return Stack(SwinBlock, self.depth, options, *stack, name="blocks")(x, *shared)


class PatchMerging(nn.Module):
    """Downsampling by 2: concatenates each 2 x 2 cells, column by column, norm, linear; D -> 2D."""

    epsilon: float = 1e-5
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B h w D"]) -> Float[Array, "B h//2 w//2 2*D"]:
        batch, rows, columns, width = x.shape
        x = x.reshape(batch, rows // 2, 2, columns // 2, 2, width)
        x = x.transpose(0, 1, 3, 4, 2, 5).reshape(batch, rows // 2, columns // 2, 4 * width)
        x = layer_norm(self.epsilon, self.dtype, name="norm")(x)
        return Dense(2 * width, self.dtype, use_bias=False, name="reduction")(x)


class WindowedBackbone(Pyramid):
    """Base class of backbones with window attention; `encode` takes AttentionGroups of the last grid.

    Attributes:
      width: channels of the first stage, which double in each stage.
      heads: of each stage.
      positions: added by `encode` to the cells of the first stage, after any masking of what `embed` gave:
        "none", "fixed" sine-cosine ones, or "learned" (for images of one size).
      position_grid: see `resampled_positions`, in cells of the first stage.
      kernel: see `choose_kernel`.
    """

    width: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    mlp_ratio: float = 4.0
    epsilon: float = 1e-5
    positions: str = "none"
    position_grid: tuple[int, int] | None = None
    kernel: str = "auto"

    supports_groups = True
    official_stage_norms = True

    @property
    def stage_widths(self) -> tuple[int, ...]:
        """Channels of each stage."""
        return tuple(self.width * 2**stage for stage in range(STAGES))

    @property
    def stage_heads(self) -> tuple[int, ...]:
        """Attention heads of each stage."""
        return self.heads

    @property
    def attention_kernel(self) -> str:
        """Kernel of its attention on the mesh that is set, see `describe_kernel`."""
        kernel = describe_kernel(self.kernel, self.dtype, self.width // self.heads[0], has_bias=True)
        return "pallas" if kernel == "pallas" else "xla"

    def window_options(self, stage: int) -> dict[str, Any]:
        """Return the keyword arguments of a stage's module that set its windows."""
        raise NotImplementedError

    def setup(self):
        common = dict(epsilon=self.epsilon, dtype=self.dtype)
        self.position = make_positions(self.positions, self.position_grid)
        self.stem = PatchEmbedNorm(4, self.width, kernel_init=None, **common)
        self.downsamples = [PatchMerging(**common) for _ in range(STAGES - 1)]
        self.stages = [
            SwinStage(
                heads=self.heads[stage],
                block=dict(common, mlp_ratio=self.mlp_ratio, kernel=self.kernel),
                **self.stage_options(stage),
                **self.window_options(stage),
            )
            for stage in range(STAGES)
        ]
        self.norm = layer_norm(self.epsilon, self.dtype, name="norm")

    def _stage_outputs(self, x, groups=None):
        return super()._stage_outputs(self.position(x), groups)


class Swin(WindowedBackbone):
    """Swin transformer.

    Attributes:
      window: side of the windows in cells, or (rows, columns); None: image size / 32, as published.
    """

    window: int | tuple[int, int] | None = None

    family = "swin"
    window_field = "window"

    def window_options(self, stage: int) -> dict[str, Any]:
        """Return the keyword arguments of a stage's module that set its windows."""
        scale = 2 ** (STAGES - 1 - stage)
        return dict(window=self.window, default_window=lambda side: choose_window(side // scale))


SIZES = {
    "t": dict(width=96, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24)),
    "s": dict(width=96, depths=(2, 2, 18, 2), heads=(3, 6, 12, 24)),
    "b": dict(width=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32)),
    "l": dict(width=192, depths=(2, 2, 18, 2), heads=(6, 12, 24, 48)),
}
VARIANTS = {f"swin_{size}": (Swin, sizes) for size, sizes in SIZES.items()}
