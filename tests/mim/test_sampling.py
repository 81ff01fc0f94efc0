"""Samplers of masked tokens, against brute force."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastmim_jax.mim.sampling import (
    SAMPLERS,
    farthest_point_order,
    random_ranks,
    squared_distance_transform,
)
from helpers.sweeps import sweep

GRIDS = {(14, 14): (147, 49), (5, 8): (30, 11), (4, 4): (12, 11)}  # masked, of them decoded


def draw(grid, num_masked, samples, seed=0):
    """Return (mask, ranks) of random masks."""
    cells = grid[0] * grid[1]
    noise = jax.random.uniform(jax.random.key(seed), (samples, cells))
    ids_shuffle = np.argsort(noise, axis=1)
    mask = np.zeros((samples, cells), bool)
    np.put_along_axis(mask, ids_shuffle[:, -num_masked:], True, axis=1)
    return mask, np.asarray(random_ranks(noise, samples, cells))


def squares(grid):
    """(N, N) squared distances between cells."""
    cells = np.stack(np.indices(grid), -1).reshape(-1, 2)
    return np.square(cells[:, None] - cells).sum(-1)


def brute_force(mask, ranks, count, grid, seeds=()):
    """Return the picks of one sample in order: the farthest from earlier ones, ties by the largest rank."""
    table, picks = squares(grid), []
    for _ in range(count):
        candidates = [cell for cell in np.flatnonzero(mask) if cell not in picks]
        before = [*seeds, *picks]

        def merit(cell, before=before):
            return (table[cell, before].min() if before else 0, ranks[cell])

        picks.append(max(candidates, key=merit))
    return picks


@pytest.mark.slow
@pytest.mark.parametrize("seeded", [False, True])
@pytest.mark.parametrize("grid", GRIDS)
def test_farthest_points_equal_brute_force_in_order(grid, seeded):
    num_masked, num_decoded = GRIDS[grid]
    mask, ranks = draw(grid, num_masked, samples=12)
    seeds = ~mask if seeded else None
    sample = jax.jit(lambda *args: farthest_point_order(*args, num_decoded, grid, seeds=seeds))
    turns = np.asarray(sample(mask, ranks, jnp.full(12, num_decoded)))
    for row in range(12):
        picks = brute_force(
            mask[row], ranks[row], num_decoded, grid, np.flatnonzero(~mask[row]) if seeded else ()
        )
        assert turns[row][picks].tolist() == list(range(num_decoded))
        assert (np.delete(turns[row], picks) == num_decoded).all()


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(("grid",), sweep([(grid,) for grid in GRIDS], [((5, 8),)], pytest.mark.slow))
def test_every_sampler_picks_the_given_number_of_masked_tokens(grid, sampler):
    num_masked, most = GRIDS[grid]
    mask, ranks = draw(grid, num_masked, samples=40)
    num_decoded = np.arange(40) % 2 + most - 1  # samples may differ
    decoded = jax.jit(lambda *args: SAMPLERS[sampler](*args, most, grid))(mask, ranks, num_decoded)
    decoded = np.asarray(decoded)
    assert decoded.sum(1).tolist() == num_decoded.tolist()
    assert not (decoded & ~mask).any()


@pytest.mark.slow
def test_thrown_tokens_have_a_decoded_neighbour():
    """In all of 1,000 draws at throw ratio 0.5 on a 14 x 14 grid; random sampling misses some 13 %."""
    grid, (num_masked, num_decoded) = (14, 14), GRIDS[14, 14]
    mask, ranks = draw(grid, num_masked, samples=1000)

    def missing(sampler):
        sample = jax.jit(lambda *args: SAMPLERS[sampler](*args, num_decoded, grid))
        decoded = sample(mask, ranks, jnp.full(1000, num_decoded))
        far = np.asarray(squared_distance_transform(decoded, grid)) > 2
        return (far & mask).sum() / (1000 * (num_masked - num_decoded))

    assert missing("furthest") == 0
    assert 0.11 < missing("random") < 0.15
    assert missing("furthest_from_visible") > 0.05  # the reason for the default without visible tokens


@pytest.mark.slow
def test_lattices_are_sparse_and_all_in_use():
    mask = np.ones((200, 36), bool)
    ranks = np.asarray(random_ranks(jax.random.uniform(jax.random.key(0), (200, 36)), 200, 36))
    decoded = SAMPLERS["lattice"](mask, ranks, jnp.full(200, 9), 9, (6, 6)).reshape(200, 6, 6)
    first = np.argmax(np.asarray(decoded).reshape(200, -1), axis=1)
    assert set(first.tolist()) == {0, 1, 6, 7}
    for sample in np.asarray(decoded):
        rows, columns = np.nonzero(sample)
        assert len(set(rows % 2)) == len(set(columns % 2)) == 1


@pytest.mark.parametrize("grid", [(6, 6), (3, 7)])
def test_distances_are_exact(grid):
    selected = np.random.default_rng(0).random((30, grid[0] * grid[1])) < 0.2
    selected[:, 0] = True
    expected = np.where(selected[:, None], squares(grid), 10**6).min(-1)
    np.testing.assert_array_equal(squared_distance_transform(jnp.asarray(selected), grid), expected)


def test_ties_are_random_and_follow_the_noise():
    noise = jax.random.uniform(jax.random.key(0), (500, 16))
    ranks = np.asarray(random_ranks(noise, 1000, 16))  # two rows of each
    assert (np.sort(ranks, axis=1) == np.arange(16)).all()
    np.testing.assert_array_equal(ranks, random_ranks(noise, 1000, 16))
    assert (ranks[0::2] != ranks[1::2]).any(1).all()
    # Every cell comes first equally often, uncorrelated with its own noise.
    first = ranks == 15
    assert np.abs(first.mean(0) - 1 / 16).max() < 0.03  # 4 standard deviations of 1,000 draws
    assert abs(np.corrcoef(first.ravel(), np.repeat(noise, 2, axis=0).ravel())[0, 1]) < 0.03


def test_sampling_stays_on_the_device():
    """The compiled program has no callbacks and no transfers, and a single loop."""
    grid, most = (14, 14), 49
    shapes = [
        jax.ShapeDtypeStruct(s, d) for s, d in [((8, 196), bool), ((8, 196), "int32"), ((8,), "int32")]
    ]
    lowered = jax.jit(lambda *args: SAMPLERS["furthest"](*args, most, grid)).lower(*shapes)
    text = lowered.compile().as_text()
    for operation in ("custom-call", "infeed", "outfeed", "send", "recv", "host"):
        assert operation not in text, operation
    assert text.count(" while(") == 1
