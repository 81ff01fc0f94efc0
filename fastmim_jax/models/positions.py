"""Position embeddings of token grids."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from fastmim_jax.models.linear import broadcast_parameter
from fastmim_jax.models.resample import bicubic
from fastmim_jax.models.typing import Array


def sincos_positions(rows: int, columns: int, width: int) -> Float[np.ndarray, "{rows} {columns} {width}"]:
    """Return MAE's fixed 2-D sine-cosine table, float32 (source: its `pos_embed.py`).

    The first half of the channels encodes the column, the second half the row; each half holds the sines of
    width/4 frequencies 10000^(-4k/width), then their cosines.

    Raises:
      ValueError: a width that is not a multiple of 4.

    >>> sincos_positions(rows=1, columns=2, width=4).round(2)  # sine and cosine of the column, of the row
    array([[[0.  , 1.  , 0.  , 1.  ],
            [0.84, 0.54, 0.  , 1.  ]]], dtype=float32)
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


def resampled_positions(
    rows: int, columns: int, width: int, grid: tuple[int, int] | None = None
) -> Float[np.ndarray, "{rows} {columns} {width}"]:
    """Return the sine-cosine table of a grid, resampled to rows x columns, float32.

    Published fine-tuning takes it to another image size in this way (FastMIM's `pos_embed.py`).

    Args:
      grid: (h, w) of the table; None: (rows, columns), without resampling.
    """
    grid = grid or (rows, columns)
    table = sincos_positions(*grid, width)
    if tuple(grid) == (rows, columns):
        return table
    row_matrix, column_matrix = bicubic(grid[0], rows), bicubic(grid[1], columns)
    return np.einsum("yh,xw,hwd->yxd", row_matrix, column_matrix, table, optimize=True).astype(np.float32)


class NoPositions(nn.Module):
    """No position embedding: grids and prefix tokens stay as they are.

    grid: (h, w) of the sine-cosine table, see `resampled_positions`.
    """

    grid: tuple[int, int] | None = None

    def __call__(self, x: Float[Array, "B h w D"]) -> Float[Array, "B h w D"]:
        """Return tokens with their positions added."""
        return x

    def add_to_prefix(self, x: Float[Array, "B K D"]) -> Float[Array, "B K D"]:
        """Return prefix tokens such as cls with their positions added."""
        return x


class FixedPositions(NoPositions):
    """Fixed sine-cosine positions; none for prefix tokens."""

    def __call__(self, x: Float[Array, "B h w D"]) -> Float[Array, "B h w D"]:
        _, rows, columns, width = x.shape
        return x + resampled_positions(rows, columns, width, self.grid).astype(x.dtype)


class LearnedPositions(NoPositions):
    """Learned positions for grids of one size, initialised as sine-cosine; for prefix tokens, as zero."""

    def __call__(self, x: Float[Array, "B h w D"]) -> Float[Array, "B h w D"]:
        _, rows, columns, width = x.shape
        init = lambda key, shape: jnp.asarray(  # noqa: E731
            resampled_positions(rows, columns, width, self.grid)
        )
        return x + broadcast_parameter(self._table("pos_embed", init, x.shape[1:]), x)

    def add_to_prefix(self, x: Float[Array, "B K D"]) -> Float[Array, "B K D"]:
        return x + broadcast_parameter(self._table("pos_embed_cls", nn.initializers.zeros, x.shape[1:]), x)

    @nn.compact
    def _table(self, name, init, shape):
        return self.param(name, init, shape)


POSITIONS = {"none": NoPositions, "fixed": FixedPositions, "learned": LearnedPositions}


def make_positions(name: str, grid: tuple[int, int] | None = None) -> NoPositions:
    """Return a module of POSITIONS.

    Args:
      grid: (h, w) of the sine-cosine table, see `resampled_positions`.

    Raises:
      ValueError: an unknown name, or a grid without cells.
    """
    if name not in POSITIONS:
        raise ValueError(f"unknown positions '{name}'; choose from: {', '.join(POSITIONS)}")
    if grid is not None and (len(grid) != 2 or min(grid) < 1):
        raise ValueError(f"position_grid is {grid}, expected (rows, columns) of at least 1 cell")
    return POSITIONS[name](grid)
