"""Windows of an image, and the matrices that join their outputs, such as logits, at the size of the image.

Everything after the network is linear until a prediction is taken: outputs are resized to the window,
averaged where windows overlap, and resized to the image. Windows are a grid, so that each axis has a matrix
of its own. Source: `slide_inference` of mmsegmentation's `EncoderDecoder`.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from fastmim_jax.models.resample import bilinear

STRIP = 64  # rows of an image that are predicted at once; sides are padded to multiples of it


class WindowPlan(NamedTuple):
    """The windows of an image along both axes.

    image: (H, W) of the image. scaled: (h, w) to which it is resized. crop: (h, w) of a window.
    rows, columns: pixels of the scaled image at which windows start, ascending.
    """

    image: tuple[int, int]
    scaled: tuple[int, int]
    crop: tuple[int, int]
    rows: tuple[int, ...]
    columns: tuple[int, ...]

    @property
    def starts(self) -> list[tuple[int, int]]:
        """(row, column) at which each window starts, row by row."""
        return [(row, column) for row in self.rows for column in self.columns]


def plan_windows(
    image: tuple[int, int],
    crop: tuple[int, int],
    *,
    mode: str = "slide",
    short_side: int | None = None,
    stride: tuple[int, int] | None = None,
) -> WindowPlan:
    """Return the windows of an image.

    Args:
      image: (H, W) in pixels.
      crop: (H, W) of a window. What an image lacks is padded at the right and below.
      mode: "whole": the image is shrunk or enlarged until it just fits into one window; "slide": windows
        follow each other, the last one ends with the image.
      short_side: "slide": of the scaled image; None: that of the crop.
      stride: "slide": from window to window; None: two thirds of the crop.

    >>> plan_windows((480, 640), (512, 512)).columns
    (0, 171)
    >>> plan_windows((480, 640), (512, 512), mode="whole").scaled
    (384, 512)
    """
    if mode == "whole":
        factor = min(side / size for side, size in zip(crop, image, strict=True))
        scaled = _scale(image, factor)
        scaled = (min(scaled[0], crop[0]), min(scaled[1], crop[1]))
        return WindowPlan(image, scaled, crop, (0,), (0,))
    scaled = _scale(image, (short_side or min(crop)) / min(image))
    steps = stride or (max(1, crop[0] * 2 // 3), max(1, crop[1] * 2 // 3))
    rows, columns = (_starts(*axis) for axis in zip(scaled, crop, steps, strict=True))
    return WindowPlan(image, scaled, crop, rows, columns)


def _scale(size: tuple[int, int], factor: float) -> tuple[int, int]:
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _starts(size: int, crop: int, stride: int) -> tuple[int, ...]:
    count = max(size - crop + stride - 1, 0) // stride + 1
    last = max(size - crop, 0)
    return tuple(dict.fromkeys(min(number * stride, last) for number in range(count)))


def axis_matrices(
    size: int, scaled: int, crop: int, starts: tuple[int, ...], cells: int
) -> Float[np.ndarray, "n size cells"]:
    """Return one matrix per window along an axis, from its logits to their part in the image's logits.

    The image's logits are the sum over windows of row matrix @ logits @ transposed column matrix.

    Args:
      size: pixels of the image. scaled: of the scaled image. crop: of a window.
      starts: of windows in the scaled image.
      cells: logits of a window along the axis.
    """
    enlarge, back = bilinear(cells, crop), bilinear(scaled, size)
    placed = np.zeros((len(starts), scaled, cells))
    for window, start in zip(placed, starts, strict=True):
        count = min(crop, scaled - start)
        window[start : start + count] = enlarge[:count]
    covered = np.zeros(scaled)
    for start in starts:
        covered[start : start + crop] += 1
    return np.einsum("ps,nsc->npc", back / covered, placed)


class WindowGrid(NamedTuple):
    """The outputs of the windows of an image, and the matrices that join them.

    outputs: (r, c, h, w, ...). rows: (r, H, h), columns: (c, W, w) float32 of `axis_matrices`, with H and W
    padded by 0 to multiples of STRIP, so that images of similar sizes share a program.
    """

    outputs: np.ndarray
    rows: np.ndarray
    columns: np.ndarray


def window_grid(outputs: np.ndarray, plan: WindowPlan) -> WindowGrid:
    """Return the (n, h, w, ...) outputs of the windows of an image as a grid."""
    axes = zip(
        plan.image, plan.scaled, plan.crop, (plan.rows, plan.columns), outputs.shape[1:3], strict=True
    )
    rows, columns = (_pad_pixels(axis_matrices(*axis)) for axis in axes)
    return WindowGrid(outputs.reshape(len(plan.rows), len(plan.columns), *outputs.shape[1:]), rows, columns)


def pad_mask(mask: np.ndarray, fill: int) -> np.ndarray:
    """Return a mask (H, W) whose sides are padded by `fill` as those of `join_windows` are."""
    return np.pad(mask, [(0, -side % STRIP) for side in mask.shape], constant_values=fill)


@partial(jax.jit, static_argnames="predict")
def join_windows(grid: WindowGrid, predict: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """Return (H, W) predictions of the pixels of an image from the outputs of its windows.

    Args:
      grid: outputs (r, c, h, w, K).
      predict: (..., K) -> (...), of outputs at the size of the image.
    """
    product = partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    wide = product("rchwk,cWw->rhWk", grid.outputs, grid.columns)
    strips = grid.rows.reshape(len(grid.rows), -1, STRIP, grid.rows.shape[2]).swapaxes(0, 1)

    def strip(rows: jax.Array) -> jax.Array:  # a strip at a time: outputs of a whole image take much memory
        return predict(product("rHh,rhWk->HWk", rows, wide))

    return jax.lax.map(strip, strips).reshape(-1, grid.columns.shape[1])


def _pad_pixels(matrices: np.ndarray) -> np.ndarray:
    return np.pad(matrices, ((0, 0), (0, -matrices.shape[1] % STRIP), (0, 0))).astype(np.float32)


def cut_windows(image: np.ndarray, plan: WindowPlan) -> np.ndarray:
    """Return (n, h, w, C) windows of a scaled image; 0 beyond its border."""
    height, width = plan.crop
    windows = np.zeros((len(plan.starts), height, width, image.shape[2]), image.dtype)
    for window, (row, column) in zip(windows, plan.starts, strict=True):
        part = image[row : row + height, column : column + width]
        window[: part.shape[0], : part.shape[1]] = part
    return windows
