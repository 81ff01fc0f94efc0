"""Buffers of published files against the definitions of Swin and BEiT, written as loops."""

import itertools

import numpy as np
import pytest

from fastmim_jax.errors import UserError
from fastmim_jax.export.formats.buffers import attention_masks, batch_counts, relative_indices

TABLE = "relative_position_bias_table"


def swin_index(window):
    """(N, N): number of the relative position of each pair of tokens, row by row."""
    tokens = list(itertools.product(range(window), repeat=2))
    side = 2 * window - 1
    return [
        [
            (row - other_row + window - 1) * side + column - other_column + window - 1
            for other_row, other_column in tokens
        ]
        for row, column in tokens
    ]


def swin_table(window, cls=0):
    return np.zeros(((2 * window - 1) ** 2 + cls, 2), np.float32)


@pytest.mark.parametrize("window", [1, 2, 3, 7])
def test_indices_are_those_of_swin(window):
    state = {f"layers.0.blocks.1.attn.{TABLE}": swin_table(window), "norm.weight": np.zeros(3)}
    buffers = relative_indices(state, (64, 64))
    assert list(buffers) == ["layers.0.blocks.1.attn.relative_position_index"]
    np.testing.assert_array_equal(
        buffers["layers.0.blocks.1.attn.relative_position_index"], swin_index(window)
    )


def test_indices_of_a_vit_have_three_entries_more_as_in_beit():
    window = 3
    (index,) = relative_indices({f"rel_pos_bias.{TABLE}": swin_table(window, cls=3)}, (48, 48)).values()
    entries = (2 * window - 1) ** 2
    np.testing.assert_array_equal(index[1:, 1:], swin_index(window))
    assert set(index[0, 1:]) == {entries} and set(index[1:, 0]) == {entries + 1}
    assert index[0, 0] == entries + 2


@pytest.mark.parametrize("entries", [15, 18, 24])
def test_windows_that_are_not_square_are_refused(entries):
    with pytest.raises(UserError, match=f"'attn.{TABLE}' belongs to windows that are not square"):
        relative_indices({f"attn.{TABLE}": np.zeros((entries, 2))}, (64, 64))


def may_attend(grid, window, row_start, column_start):
    """(N, N) of a window of the rolled grid: True where two cells are as far apart in the grid itself."""
    shift = window // 2
    cells = list(
        itertools.product(range(row_start, row_start + window), range(column_start, column_start + window))
    )
    unrolled = [((row + shift) % grid[0], (column + shift) % grid[1]) for row, column in cells]
    return [
        [
            (a[0] - b[0], a[1] - b[1]) == (c[0] - d[0], c[1] - d[1])
            for b, d in zip(cells, unrolled, strict=True)
        ]
        for a, c in zip(cells, unrolled, strict=True)
    ]


def test_masks_keep_cells_apart_that_a_shift_brought_together():
    window, size = 4, (32, 48)  # grids of 8 x 12, 4 x 6 cells
    names = [f"layers.{stage}.blocks.{block}.attn.{TABLE}" for stage in (0, 1) for block in (0, 1)]
    masks = attention_masks({name: swin_table(window) for name in names}, size)
    # Only odd blocks shift, and only grids larger than their window.
    assert list(masks) == ["layers.0.blocks.1.attn_mask"]
    (mask,) = masks.values()
    corners = itertools.product(range(0, 8, window), range(0, 12, window))
    near = np.array([may_attend((8, 12), window, *corner) for corner in corners])
    assert mask.dtype == np.float32 and not near.all()
    np.testing.assert_array_equal(mask, np.where(near, 0, -100))


def test_every_batch_norm_gets_a_counter_of_zero():
    state = {"stem.running_mean": np.ones(3), "stem.running_var": np.ones(3), "norm.weight": np.ones(3)}
    (item,) = batch_counts(state, (64, 64)).items()
    assert item == ("stem.num_batches_tracked", 0) and item[1].dtype == np.int64 and item[1].shape == ()
