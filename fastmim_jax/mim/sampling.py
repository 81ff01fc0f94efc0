"""Which hidden tokens are decoded: furthest-point sampling on the token grid, and what to compare it with.

A sampler gives each sample's `wanted` hidden tokens, on the device and with static shapes:

    sampler(hidden, rank, wanted, most, grid) -> (B, N) bool

with hidden (B, N) bool in row-major order of the grid (rows, columns), rank (B, N) a random order of the
cells, wanted (B,) int32 and most their largest, a Python integer.
"""

import jax
import jax.numpy as jnp
import numpy as np

from fastmim_jax.mim.masking import shuffle_ids


def random_ranks(noise, rows, cells):
    """A random order of the cells in each row, (rows, cells) int32, that follows from a mask's noise.

    Args:
      noise: (n, ...) uniform float32 numbers; rows is a multiple of n, consecutive rows share an entry.
    """
    bits = jax.lax.bitcast_convert_type(noise, jnp.uint32)
    seeds = bits.reshape(len(noise), -1).sum(1, dtype=jnp.uint32)  # modulo 2^32

    def draw(seed):
        return jax.random.uniform(jax.random.key(seed), (rows // len(noise), cells))

    return shuffle_ids(jax.vmap(draw)(seeds).reshape(rows, cells))[1]


def squared_distance(known, grid):
    """Squared distance in cells to the nearest known cell: (B, N) bool -> (B, N) int32.

    Exact: first along the columns, then along the rows. Where nothing is known, `beyond(grid)` or more.
    """
    rows, columns = grid
    far = jnp.where(known, 0, beyond(grid)).reshape(-1, rows, 1, columns)
    along = (far + _squares(rows)[None, :, :, None]).min(1)  # (B, rows, columns)
    nearest = (along[:, :, :, None] + _squares(columns)).min(2)
    return nearest.reshape(known.shape)


def beyond(grid):
    """A squared distance that no two cells of a grid have."""
    return grid[0] ** 2 + grid[1] ** 2


def _squares(count):
    places = np.arange(count)
    return np.square(places[:, None] - places).astype(np.int32)


def furthest(hidden, rank, wanted, most, grid):
    """Those furthest from each other: each pick is the hidden token furthest from all picks before it."""
    return furthest_turns(hidden, rank, wanted, most, grid) < most


def furthest_from_visible(hidden, rank, wanted, most, grid):
    """Those furthest from each other and from what is visible."""
    return furthest_turns(hidden, rank, wanted, most, grid, known=~hidden) < most


def furthest_turns(hidden, rank, wanted, most, grid, known=None):
    """Furthest-point sampling; equal distances are decided by the largest rank.

    Arguments as of every sampler, and:
      known: (B, N) bool, cells that count as picked from the start, or None: the first pick is random.

    Returns:
      (B, N) int32: the turn in which a token was picked, `most` if it was not.
    """
    columns, cells = grid[1], hidden.shape[1]
    cell = jnp.arange(cells, dtype=jnp.int32)
    row, column = cell // columns, cell % columns

    def step(turn, state):
        nearest, turns = state
        open_to_choice = hidden & (turns == most) & (turn < wanted)[:, None]
        # Distances are integers: times the number of cells, ranks only decide between equal ones.
        score = jnp.where(open_to_choice, nearest * cells + rank, -1)
        pick = jnp.argmax(score, axis=1, keepdims=True).astype(jnp.int32)
        distance = jnp.square(row - pick // columns) + jnp.square(column - pick % columns)
        turns = jnp.where((cell == pick) & open_to_choice, turn, turns)
        return jnp.minimum(nearest, distance), turns

    nearest = jnp.full(hidden.shape, beyond(grid), jnp.int32)
    if known is not None:
        nearest = jnp.minimum(nearest, squared_distance(known, grid))
    start = nearest, jnp.full(hidden.shape, most, jnp.int32)
    return jax.lax.fori_loop(0, most, step, start)[1]


def randomly(hidden, rank, wanted, most, grid):
    """Any of them, as plain partial reconstruction does."""
    return _first(hidden, rank, wanted)


def lattice(hidden, rank, wanted, most, grid):
    """Those on one of the four lattices of every second row and column, then any (VideoMAE V2's cells)."""
    cell = jnp.arange(hidden.shape[1], dtype=jnp.int32)
    phase = rank[:, :1] % 4
    rows, columns = cell // grid[1] + phase // 2, cell % grid[1] + phase
    off = (rows % 2) | (columns % 2)
    return _first(hidden, off * hidden.shape[1] + rank, wanted)


def _first(hidden, key, wanted):
    """The wanted number of hidden cells with the least key."""
    _, place = shuffle_ids(jnp.where(hidden, key, jnp.iinfo(jnp.int32).max))
    return hidden & (place < wanted[:, None])


SAMPLERS = {
    "furthest": furthest,
    "random": randomly,
    "lattice": lattice,
    "furthest_from_visible": furthest_from_visible,
}
