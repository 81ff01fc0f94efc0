"""Arrays of published state dicts that are no parameters: PyTorch's modules expect them when they load.

Each function takes the learned arrays of a state dict {name: array} and the (height, width) of the images,
and returns what belongs beside them.
"""

import math

import numpy as np

from fastmim_jax.errors import UserError
from fastmim_jax.models.attention import relative_index
from fastmim_jax.models.swin import shift_mask

TABLE = "relative_position_bias_table"
FIRST_STAGE = 4  # pixels per cell
KEPT_OUT = -100.0  # what Swin adds to scores of cells that may not attend to each other


def relative_indices(state, image_size):
    """`relative_position_index` (N, N) beside every table of relative positions of square windows.

    A table with three more entries is of a ViT, whose cls token comes first, as in BEiT and SimMIM.
    """
    found = {}
    for name, table in state.items():
        if name.endswith(TABLE):
            window, of_cls = _window(name, table)
            rows, columns = relative_index((window, window))
            index = rows * (2 * window - 1) + columns
            found[name.replace(TABLE, "relative_position_index")] = _with_cls(index) if of_cls else index
    return found


def attention_masks(state, image_size):
    """`attn_mask` (windows, N, N) of every second block of a Swin, where its windows are shifted."""
    found = {}
    for name, table in state.items():
        parts = name.split(".")  # [..., "layers", stage, "blocks", block, "attn", TABLE]
        if not name.endswith(TABLE) or int(parts[-3]) % 2 == 0:
            continue
        window, _ = _window(name, table)
        grid = tuple(side // (FIRST_STAGE * 2 ** int(parts[-5])) for side in image_size)
        if min(grid) > window:
            near = shift_mask(grid, (window, window), (window // 2, window // 2))
            mask = np.where(near, 0.0, KEPT_OUT).astype(np.float32)
            found[name.replace(f"attn.{TABLE}", "attn_mask")] = mask
    return found


def batch_counts(state, image_size):
    """`num_batches_tracked` of every batch norm: a counter that nothing here reads, so zero."""
    suffix = "running_mean"
    return {
        name.replace(suffix, "num_batches_tracked"): np.zeros((), np.int64)
        for name in state
        if name.endswith(suffix)
    }


def _window(name, table):
    """-> (side of the window whose table this is, whether it has entries of a cls token)."""
    side = math.isqrt(len(table))
    of_cls = len(table) == side**2 + 3
    if side**2 != len(table) - 3 * of_cls:
        raise UserError(
            f"'{name}' is of windows that are not square, for which published files have no place: "
            "fine-tune for square images first"
        )
    return (side + 1) // 2, of_cls


def _with_cls(index):
    """(N, N) -> (1 + N, 1 + N): entries behind the others, of cls that looks, is looked at, and both."""
    index = np.pad(index, ((1, 0), (1, 0)))
    first = index.max() + 1
    index[0, :], index[:, 0], index[0, 0] = first, first + 1, first + 2
    return index
