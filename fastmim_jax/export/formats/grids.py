"""Grids of arrays that published files flatten: positions, and tables of relative positions.

Published grids are square. Of others the image size tells the sides, or our own files do.
"""

from collections.abc import Mapping
from math import isqrt, prod
from typing import Any, NamedTuple

import numpy as np

from fastmim_jax.errors import FormatMismatch
from fastmim_jax.export.formats.rules import Format
from fastmim_jax.models.cmt import REDUCTIONS
from fastmim_jax.models.positions import sincos_positions

POSITIONS, CLS = "position/pos_embed", "position/pos_embed_cls"
BIASES, CMT_BIASES = "relative_position_bias_table", "/relative_position"
TOLERANCE = 1e-5  # between sine-cosine tables that were rounded to float32 in different ways
ADVICE = 'type --set="data.image_size=(height, width)"'
LAST_STRIDE = 32  # pixels per token of the last stage of a hierarchical backbone


class GridHints(NamedTuple):
    """Facts about the grids of a file.

    image_size: (height, width); None: unknown, and grids are taken as square.
    grids: {our path: sides of the array's grid}, where they are not square; in our own files.
    """

    image_size: tuple[int, int] | None = None
    grids: Mapping[str, tuple[int, ...]] = {}


NO_HINTS = GridHints()


def is_grid(path: str, x: np.ndarray) -> bool:
    """Return whether an array of ours is flat, see `restore_grids`."""
    return (path.endswith((POSITIONS, BIASES)) and x.ndim == 2) or (
        path.endswith(CMT_BIASES) and x.ndim == 3
    )


def restore_grids(
    arrays: Mapping[str, Any], fmt: Format, hints: GridHints, names: Mapping[str, str]
) -> dict[str, Any]:
    """Return {our path: array} with the grids that the arrays have in our models.

    Args:
      arrays: positions (N, D), with the entry of the cls token in front if there is one; tables of relative
        positions (N, heads), of CMT (heads, queries, keys); others are not changed.
      names: {our path: published name}, for messages.

    Raises:
      FormatMismatch: a number of positions makes no square, or no grid of the image size.
    """
    restored = dict(arrays)
    for path, x in arrays.items():
        try:
            if path.endswith(POSITIONS) and x.ndim == 2:
                _restore_positions(restored, path, fmt, hints)
            elif path.endswith(BIASES) and x.ndim == 2:
                restored[path] = x.reshape(*_table_sides(path, len(x), arrays, fmt, hints), -1)
            elif path.endswith(CMT_BIASES) and x.ndim == 3:
                restored[path] = x.reshape(len(x), *_cmt_grids(path, x.shape[1:], hints))
        except FormatMismatch as error:
            raise FormatMismatch(f"'{names.get(path, path)}' does not fit: {error}") from error
    return restored


def flattened_grids(arrays: Mapping[str, Any]) -> dict[str, list[int]]:
    """Return the `grids` of GridHints for the tables of a model whose sides differ."""
    tables = {path: x.shape[:2] for path, x in arrays.items() if path.endswith(BIASES)}
    return {path: list(sides) for path, sides in tables.items() if sides[0] != sides[1]}


def complete_cls(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arrays with an empty entry (0, D) of cls beside positions without one, to join both."""
    added = {
        path.replace(POSITIONS, CLS): np.zeros((0, x.shape[-1]), np.float32)
        for path, x in arrays.items()
        if path.endswith(POSITIONS) and path.replace(POSITIONS, CLS) not in arrays
    }
    return {**arrays, **added}


def _restore_positions(arrays: dict[str, Any], path: str, fmt: Format, hints: GridHints) -> None:
    table, cls = arrays[path], path.replace(POSITIONS, CLS)
    token = arrays.get("encoder/cls_token")
    has_token = token is not None
    count = 1 if token is None or token.ndim != 3 else token.shape[1]
    places = count if cls in arrays else 0
    if hints.image_size is not None and (cell := _cell(path, arrays, fmt)):
        grid, entries = _known_grid(len(table), places, cell, hints.image_size)
    else:
        grid, entries = _likely_grid(table, places, has_token)
    arrays[path] = table[entries:].reshape(*grid, -1)
    arrays.pop(cls, None)
    if entries:
        arrays[cls] = table[:entries]
    elif places and has_token:  # a file with entries of patches only, as of DeiT III
        arrays[cls] = np.zeros_like(table[:places])


def _known_grid(count, places, cell, image_size):
    """-> (sides of the grid, number of entries before it: 0 or `places`), for images of a size."""
    grid = image_size[0] // cell, image_size[1] // cell
    for entries in (0, places):
        if prod(grid) + entries == count:
            return grid, entries
    raise FormatMismatch(
        f"{count} positions are not those of {image_size[0]} x {image_size[1]} pixels, {grid[0]} x "
        f"{grid[1]} cells of {cell} pixels{' and cls' if places else ''}: {ADVICE}"
    )


def _likely_grid(table, places, has_token):
    """-> (sides of the grid, number of entries before it): sine-cosine tables tell, others are square."""
    count = len(table)
    is_square = isqrt(count) ** 2 == count
    rest = max(count - places, 0)
    entries = 0 if is_square or not (has_token or isqrt(rest) ** 2 == rest) else places
    side = isqrt(count - entries)
    grids = [(side, side)] if side**2 == count - entries else []
    divisors = (rows for rows in range(1, count) if (count - entries) % rows == 0)
    for grid in (*grids, *((rows, (count - entries) // rows) for rows in divisors)):
        if _is_sincos(table[entries:], grid):
            return grid, entries
    if not grids:
        raise FormatMismatch(f"{count - entries} positions make no square: {ADVICE}")
    return grids[0], entries


def _is_sincos(flat, grid):
    width = flat.shape[-1]
    if width % 4 or not flat.size:
        return False
    return bool(np.abs(flat - sincos_positions(*grid, width).reshape(flat.shape)).max() < TOLERANCE)


def _cell(path, arrays, fmt):
    """Pixels per position along one side; 0 if a file does not tell."""
    if fmt.family == "vit":
        kernel = arrays.get("encoder/patch_embed/kernel")
        return kernel.shape[0] if kernel is not None and kernel.ndim == 4 else 0
    return LAST_STRIDE if path.startswith("decoder/") else LAST_STRIDE // 8


def _table_sides(path, count, arrays, fmt, hints):
    """-> (2 * rows - 1, 2 * columns - 1) of the windows of a table of relative positions."""
    if path in hints.grids and prod(hints.grids[path]) == count:
        return hints.grids[path]
    side = isqrt(count)
    square = [(side, side)] if side**2 == count and side % 2 else []
    if hints.image_size is None:
        if not square:
            raise FormatMismatch(f"{count} relative positions make no square: {ADVICE}")
        return square[0]
    cell = _cell(path, arrays, fmt) or 1
    if fmt.family != "vit":
        cell = LAST_STRIDE // 8 * 2 ** int(path.partition("stages_")[2][:1] or 0)
    grid = hints.image_size[0] // cell, hints.image_size[1] // cell
    divisors = [[n for n in range(length, 0, -1) if length % n == 0] for length in grid]
    windows = [(rows, columns) for rows in divisors[0] for columns in divisors[1]]
    sides = [(2 * rows - 1, 2 * columns - 1) for rows, columns in windows]
    fitting = [x for x in (*sides[:1], *square, *sides) if prod(x) == count]
    if not fitting:
        raise FormatMismatch(
            f"{count} relative positions are of no window in {grid[0]} x {grid[1]} cells: {ADVICE}"
        )
    return fitting[0]


def _cmt_grids(path, counts, hints):
    """-> sides of the grid of queries and of keys."""
    stage = int(path.removesuffix(CMT_BIASES)[-1])
    if hints.image_size is not None:
        grid = tuple(length // (LAST_STRIDE // 8 * 2**stage) for length in hints.image_size)
        keys = tuple(length // REDUCTIONS[stage] for length in grid)
        if (prod(grid), prod(keys)) != counts:
            raise FormatMismatch(
                f"{counts[0]} queries and {counts[1]} keys are not those of {grid[0]} x {grid[1]} cells: "
                f"{ADVICE}"
            )
        return (*grid, *keys)
    sides = [isqrt(count) for count in counts]
    if [side**2 for side in sides] != list(counts):
        raise FormatMismatch(f"{counts[0]} queries and {counts[1]} keys make no square grids: {ADVICE}")
    return sides[0], sides[0], sides[1], sides[1]
