"""Choice of the masked tokens that partial reconstruction decodes: farthest-point sampling and baselines.

A sampler runs on the device with static shapes:

    sampler(mask, ranks, num_decoded, max_decoded, grid) -> (B, N) bool, the decoded tokens

mask (B, N) bool is in row-major order of the grid (rows, columns), ranks (B, N) is a random permutation of
the cells that breaks ties, num_decoded (B,) int32 is the number of tokens to decode in each sample, and
max_decoded is its maximum, a Python integer.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from fastmim_jax.mim.masking import shuffle_ids
from fastmim_jax.models.typing import Array

Grid = tuple[int, int]  # (rows, columns)


def random_ranks(noise: Float[Array, " n *rest"], rows: int, num_tokens: int) -> Int[Array, "rows N"]:
    """Return a random permutation of the cells in each row, a function of the masking noise.

    Args:
      noise: uniform float32 numbers; n divides `rows`, and consecutive rows share an entry.
      rows: number of permutations.
      num_tokens: length of a permutation.
    """
    bits = jax.lax.bitcast_convert_type(noise, jnp.uint32)
    seeds = bits.reshape(len(noise), -1).sum(1, dtype=jnp.uint32)  # modulo 2^32

    def draw(seed: jax.Array) -> jax.Array:
        return jax.random.uniform(jax.random.key(seed), (rows // len(noise), num_tokens))

    return shuffle_ids(jax.vmap(draw)(seeds).reshape(rows, num_tokens))[1]


def squared_distance_transform(selected: Bool[Array, "B N"], grid: Grid) -> Int[Array, "B N"]:
    """Return the squared distance in cells from every cell to the nearest selected one.

    Exact and separable: first along the columns, then along the rows. Without a selected cell the distance
    is `unreachable(grid)` or more.
    """
    rows, columns = grid
    far = jnp.where(selected, 0, unreachable(grid)).reshape(-1, rows, 1, columns)
    along = (far + _squared_differences(rows)[None, :, :, None]).min(1)  # (B, rows, columns)
    nearest = (along[:, :, :, None] + _squared_differences(columns)).min(2)
    return nearest.reshape(selected.shape)


def unreachable(grid: Grid) -> int:
    """Return a squared distance larger than between any two cells of a grid."""
    return grid[0] ** 2 + grid[1] ** 2


def _squared_differences(count: int) -> np.ndarray:
    positions = np.arange(count)
    return np.square(positions[:, None] - positions).astype(np.int32)


def furthest(mask: Array, ranks: Array, num_decoded: Array, max_decoded: int, grid: Grid) -> Array:
    """Farthest-point sampling: each pick is the masked token farthest from all earlier picks."""
    return farthest_point_order(mask, ranks, num_decoded, max_decoded, grid) < max_decoded


def furthest_from_visible(
    mask: Array, ranks: Array, num_decoded: Array, max_decoded: int, grid: Grid
) -> Array:
    """Farthest-point sampling that starts from the visible tokens."""
    return farthest_point_order(mask, ranks, num_decoded, max_decoded, grid, seeds=~mask) < max_decoded


def farthest_point_order(
    mask: Bool[Array, "B N"],
    ranks: Int[Array, "B N"],
    num_decoded: Int[Array, " B"],
    max_decoded: int,
    grid: Grid,
    seeds: Bool[Array, "B N"] | None = None,
) -> Int[Array, "B N"]:
    """Return the turn in which farthest-point sampling picks each token, `max_decoded` if it does not.

    The largest rank breaks ties. The arguments are those of every sampler, and:
      seeds: cells that count as picked from the start, or None: the first pick is random.
    """
    columns, num_tokens = grid[1], mask.shape[1]
    cell = jnp.arange(num_tokens, dtype=jnp.int32)
    row, column = cell // columns, cell % columns

    def step(turn: jax.Array, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        nearest, turns = state
        candidates = mask & (turns == max_decoded) & (turn < num_decoded)[:, None]
        # Distances are integers: multiplied by the number of cells, they leave ranks to break ties.
        score = jnp.where(candidates, nearest * num_tokens + ranks, -1)
        pick = jnp.argmax(score, axis=1, keepdims=True).astype(jnp.int32)
        distance = jnp.square(row - pick // columns) + jnp.square(column - pick % columns)
        turns = jnp.where((cell == pick) & candidates, turn, turns)
        return jnp.minimum(nearest, distance), turns

    nearest = jnp.full(mask.shape, unreachable(grid), jnp.int32)
    if seeds is not None:
        nearest = jnp.minimum(nearest, squared_distance_transform(seeds, grid))
    initial = nearest, jnp.full(mask.shape, max_decoded, jnp.int32)
    return jax.lax.fori_loop(0, max_decoded, step, initial)[1]


def uniform(mask: Array, ranks: Array, num_decoded: Array, max_decoded: int, grid: Grid) -> Array:
    """Uniform sampling, as in plain partial reconstruction."""
    return _lowest(mask, ranks, num_decoded)


def lattice(mask: Array, ranks: Array, num_decoded: Array, max_decoded: int, grid: Grid) -> Array:
    """One of the four lattices of every second row and column, then any (running cells of VideoMAE V2)."""
    cell = jnp.arange(mask.shape[1], dtype=jnp.int32)
    phase = ranks[:, :1] % 4
    rows, columns = cell // grid[1] + phase // 2, cell % grid[1] + phase
    off_lattice = (rows % 2) | (columns % 2)
    return _lowest(mask, off_lattice * mask.shape[1] + ranks, num_decoded)


def _lowest(mask: Array, scores: Array, num_decoded: Array) -> Array:
    """The `num_decoded` masked cells with the lowest scores."""
    _, ids_restore = shuffle_ids(jnp.where(mask, scores, jnp.iinfo(jnp.int32).max))
    return mask & (ids_restore < num_decoded[:, None])


SAMPLERS = {
    "furthest": furthest,
    "random": uniform,
    "lattice": lattice,
    "furthest_from_visible": furthest_from_visible,
}
