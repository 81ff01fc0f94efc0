"""Buffers of published state dicts: arrays that are no parameters, but that PyTorch's modules load.

Each function takes the parameters of a state dict {name: array}, the (height, width) of the images and
{name of a table of relative positions: (rows, columns) of its windows} where these are not square, and
returns the buffers {name: array}.
"""

import math
from collections.abc import Mapping

import numpy as np

from fastmim_jax.errors import UserError
from fastmim_jax.export.formats.rules import State
from fastmim_jax.models.swin import shift_mask

Windows = Mapping[str, tuple[int, int]]
NO_WINDOWS: Windows = {}
TABLE = "relative_position_bias_table"
FIRST_STRIDE = 4  # pixels per token of the first stage
MASKED_SCORE = -100.0  # that Swin adds to the scores of tokens that may not attend to each other


def relative_indices(
    state: State, image_size: tuple[int, int], windows: Windows = NO_WINDOWS
) -> dict[str, np.ndarray]:
    """Return `relative_position_index` (N, N) beside every table of relative positions.

    A table with three more entries belongs to a ViT, whose cls token comes first, as in BEiT and SimMIM.

    Raises:
      UserError: a window is not square and not among `windows`.
    """
    buffers = {}
    for name, table in state.items():
        if name.endswith(TABLE):
            window, has_cls = _window(name, table, windows)
            index = _relative_position_index(window)
            buffers[name.replace(TABLE, "relative_position_index")] = _with_cls(index) if has_cls else index
    return buffers


def _relative_position_index(window):
    """Return the entry of a table (2 * h - 1) * (2 * w - 1) for each pair of cells of a window (h, w)."""
    rows, columns = (np.subtract.outer(axis.ravel(), axis.ravel()) for axis in np.indices(window))
    return (rows + window[0] - 1) * (2 * window[1] - 1) + columns + window[1] - 1


def attention_masks(
    state: State, image_size: tuple[int, int], windows: Windows = NO_WINDOWS
) -> dict[str, np.ndarray]:
    """Return `attn_mask` (windows, N, N) of the blocks of a Swin with shifted windows."""
    buffers = {}
    for name, table in state.items():
        parts = name.split(".")  # [..., "layers", stage, "blocks", block, "attn", TABLE]
        if not name.endswith(TABLE) or int(parts[-3]) % 2 == 0:
            continue
        window, _ = _window(name, table, windows)
        grid = tuple(side // (FIRST_STRIDE * 2 ** int(parts[-5])) for side in image_size)
        if all(side > length for side, length in zip(grid, window, strict=True)):
            near = shift_mask(grid, window, (window[0] // 2, window[1] // 2))
            mask = np.where(near, 0.0, MASKED_SCORE).astype(np.float32)
            buffers[name.replace(f"attn.{TABLE}", "attn_mask")] = mask
    return buffers


def batch_counts(
    state: State, image_size: tuple[int, int], windows: Windows = NO_WINDOWS
) -> dict[str, np.ndarray]:
    """Return `num_batches_tracked` of every batch norm, zero: a counter that inference does not read."""
    suffix = "running_mean"
    return {
        name.replace(suffix, "num_batches_tracked"): np.zeros((), np.int64)
        for name in state
        if name.endswith(suffix)
    }


def _window(name: str, table: np.ndarray, windows: Windows) -> tuple[tuple[int, int], bool]:
    """-> (sides of the window that the table belongs to, whether it has entries of a cls token)."""
    if name in windows:
        rows, columns = windows[name]
        return (rows, columns), len(table) != (2 * rows - 1) * (2 * columns - 1)
    side = math.isqrt(len(table))
    has_cls = len(table) == side**2 + 3
    if side**2 != len(table) - 3 * has_cls:
        raise UserError(
            f"'{name}' belongs to windows that are not square, which published files cannot hold: "
            "fine-tune for square images first"
        )
    return ((side + 1) // 2,) * 2, has_cls


def _with_cls(index: np.ndarray) -> np.ndarray:
    """(N, N) -> (1 + N, 1 + N), with three more entries: cls to patch, patch to cls, cls to cls."""
    index = np.pad(index, ((1, 0), (1, 0)))
    first = index.max() + 1
    index[0, :], index[:, 0], index[0, 0] = first, first + 1, first + 2
    return index
